"""RAG: passages of the task's documents, found for each query, are read along with it.

Paper:       Lewis et al. 2020, arXiv:2005.11401; fusion by reciprocal ranks, Cormack et al. 2009 (SIGIR).
Formula:     p(y | x, top passages of x), all passages in one prompt.
Shapes:      passages P; embeddings (P, hidden), normalised; scores (P,).
Units:       passages, count; words and overlap, words.
Randomness:  none.
Cost:        indexing once; per answer, the tokens of its passages; 'dense' and 'fused' embed every passage once and every query.
Deviations:  nothing is trained (the paper trains the query encoder and the generator), and passages share one prompt where
             the paper sums over passages. 'bm25' never shows a passage that shares no word with the query, so an answer may
             see fewer passages than asked for. 'dense' uses the plain encoder or base, without the start's other changes.
             Passages that would not fit are left out, worst first.
Errors:      UserError where the task has no documents, or where overlap is not less than words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metier import check
from metier.errors import UserError
from metier.method import About
from metier.model import Specialist, load_base
from metier.model.known import Known
from metier.model.loading import EMBEDDED
from metier.retrieve.index import passages
from metier.retrieve.passages import Passages, query_of
from metier.task import Task
from metier.train import Run

ABOUT = About(
    place="in", effort=3.0, families=("causal", "seq2seq"), needs=("documents",), search={"passages": (1, 2, 4), "retriever": ("bm25",)}
)  # fmt: skip


ENCODER = "metier-encoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of RAG."""

    passages: int = 2
    """How many passages are shown."""
    retriever: Literal["bm25", "dense", "fused"] = "bm25"
    """How they are found: shared words, likeness of embeddings, or both rankings fused."""
    encoder: str = ""
    """The base whose embeddings 'dense' and 'fused' compare, by name or path ('metier-encoder', 'minilm'); empty: metier-encoder
    where the base is an embedded one, as they read the same words, else the base itself."""
    order: Literal["best-last", "best-first"] = "best-last"
    """Whether the best passage stands last, next to the query, or first."""
    words: int = 100
    """Words of a passage."""
    overlap: int = 20
    """Words that a passage shares with the one before."""

    def __post_init__(self) -> None:
        check.integer("passages", self.passages, low=1)
        check.one_of("retriever", self.retriever, ("bm25", "dense", "fused"))
        check.one_of("order", self.order, ("best-last", "best-first"))
        check.integer("words", self.words, low=1)
        check.integer("overlap", self.overlap, low=0, high=self.words - 1)
        if self.encoder and self.retriever == "bm25":
            raise UserError(f"encoder {self.encoder!r} is not used by retriever 'bm25'. Say retriever='dense' or 'fused'.")


def rag(start: Specialist, task: Task, settings: Settings, run: Run) -> Passages:
    """Index the task's documents; the change shows each example the passages found for it."""
    found = passages(task.documents, words=settings.words, overlap=settings.overlap)
    if not found:
        raise UserError(
            f"rag: task {task.name} has no documents with words in them. Give it documents (a file or folder), or use another method."
        )
    encoder, vectors = None, None
    if settings.retriever != "bm25":
        name = settings.encoder or (ENCODER if start.base.path.startswith(str(EMBEDDED)) else "")
        encoder = Known.of(load_base(name, chat=False) if name else start.base)
        vectors = encoder.embed([p.text for p in found])
    base = Known.reading(start, task)
    change = Passages(tuple(found), base, settings.passages, settings.retriever, settings.order, encoder, vectors)
    return _told(change, start, task, run)


def _told(change: Passages, start: Specialist, task: Task, run: Run) -> Passages:
    """The change with a note of how its passages fit; said aloud where not all do."""
    seen = [(start.prompt(task, e), e) for e in (task.dev or task.train)[:200]]
    cut = sum(len(change.fitting(p, e, task)) < len(change.best(query_of(p, e))) for p, e in seen)
    if cut and run.say:
        run.say(f"rag: {cut} of {len(seen)} prompts have no room for all their passages; the worst passages are left out there")
    return change.noting({"prompts": len(seen), "without_room_for_all": cut})
