"""Exemplars: the change that shows solved examples before the query, with what it needs to choose them again."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from metier.errors import BaseMismatch
from metier.model import Base, InputChange, Specialist, load_base
from metier.task import Example, Prompt, Task

SAMPLE = 500  # examples of a split by which the room for exemplars is measured


@dataclass(frozen=True, slots=True)
class Solved:
    """An exemplar as it is shown: rendered query and answer; the example's digest; the tokens it adds to a prompt."""

    query: str
    answer: str
    digest: str
    tokens: int


def solved(start: Specialist, task: Task, example: Example) -> Solved:
    """An example as an exemplar. One token more is counted in case its ends are cut into tokens differently in a prompt."""
    shown = start.prompt(task, example)
    probe = Prompt("x", separator=shown.separator)
    count = [len(start.base.encode_prompt(p)[1]) for p in (probe.with_(exemplars=((shown.query, example.answer),)), probe)]
    return Solved(shown.query, example.answer, example.digest(), count[0] - count[1] + 1)


@dataclass(frozen=True, slots=True)
class Room:
    """How many tokens are left beside a prompt: limit - (rate x characters + margin).

    A change has no tokenizer when it is used, so a prompt's tokens are estimated: no prompt of train and dev by which
    this was measured has more. limit: what the base reads, less the longest answer and soft prompts.
    """

    limit: int
    rate: float
    margin: float

    @classmethod
    def of(cls, start: Specialist, task: Task) -> Room:
        """Measured on the prompts and answers of train and dev."""
        base, longest, sizes = start.base, task.max_new_tokens if task.kind == "generate" else 0, []
        for example in (*task.train[:SAMPLE], *task.dev[:SAMPLE]):
            prompt = start.prompt(task, example)
            text, ids = base.encode_prompt(prompt)
            sizes.append((len(prompt.text()), len(ids)))
            for answer in {*task.choices_of(example), example.answer} if task.kind == "choose" else {example.answer}:
                longest = max(longest, len(base.encode_answer(text, answer, separator=prompt.separator)) + 1)
        sizes.sort(reverse=True)
        rate = max((tokens / max(1, characters) for characters, tokens in sizes[: len(sizes) // 2 + 1]), default=1.0)
        margin = max((tokens - rate * characters for characters, tokens in sizes), default=0.0)
        soft = start.prefix()
        return cls(base.max_length - longest - (0 if soft is None else len(soft)), rate, max(0.0, margin) + 1)

    def left(self, prompt: Prompt) -> float:
        """Tokens that may be added to a prompt."""
        return self.limit - self.margin - self.rate * len(prompt.text())


@dataclass
class Encoder:
    """The base whose embeddings are compared, known by name and fingerprint; after loading it is loaded when first needed."""

    name: str
    fingerprint: str
    dtype: str
    base: Base | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, base: Base) -> Encoder:
        """A base that is in memory already."""
        return cls(base.path or base.name, base.fingerprint, str(next(base.model.parameters()).dtype).removeprefix("torch."), base)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings: (texts, hidden). Raises BaseMismatch where the name now stands for other weights."""
        if self.base is None:
            found = load_base(self.name, chat=False, dtype=self.dtype)
            if found.fingerprint != self.fingerprint:
                raise BaseMismatch(
                    f"{self.name}: its weights are {found.fingerprint[:16]}, the exemplars were embedded by {self.fingerprint[:16]}."
                )
            self.base = found
        return Specialist(self.base).embed(texts).cpu()

    def facts(self) -> dict[str, str]:
        """What is saved of it."""
        return {"name": self.name, "fingerprint": self.fingerprint, "dtype": self.dtype}


@dataclass(frozen=True)
class Exemplars(InputChange):
    """Shows `shots` exemplars from `pool`: its first ones ('random', 'balanced'), or the most alike ('bm25', 'nearest').

    vectors  embeddings of the pool's queries for 'nearest': (pool, hidden)
    """

    pool: tuple[Solved, ...]
    room: Room
    shots: int
    pick: str
    order: str
    encoder: Encoder | None = None
    vectors: Tensor | None = field(default=None, compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, prompt: Prompt, example: Example, task: Task) -> Prompt:
        """The prompt with exemplars after those it has; the most alike stands last, or first."""
        shown = self.fitting(prompt, example)
        pairs = [(self.pool[i].query, self.pool[i].answer) for i in (reversed(shown) if self.order == "best-last" else shown)]
        return prompt.with_(exemplars=(*prompt.exemplars, *pairs))

    def fitting(self, prompt: Prompt, example: Example) -> list[int]:
        """Positions of the exemplars for a prompt, best first, as many as there is room for; never the example itself."""
        own, left, shown = example.digest(), self.room.left(prompt), []
        for i in self.ranking(prompt.query):
            if self.pool[i].digest == own:
                continue
            left -= self.pool[i].tokens
            if left < 0 or len(shown) == self.shots:
                break
            shown.append(i)
        return shown

    def ranking(self, query: str) -> list[int]:
        """Positions in the pool, best first; equal ones in the pool's order."""
        if self.pick == "bm25":
            scores = self._lexical(query)
        elif self.encoder is not None and self.vectors is not None:
            scores = self.vectors @ self.encoder.embed([query])[0]
        else:
            return list(range(len(self.pool)))
        return scores.argsort(descending=True, stable=True).tolist()

    def noting(self, fit: Mapping[str, Any]) -> Self:
        """The change with a note on how its exemplars fit, in its provenance."""
        return dataclasses.replace(self, provenance={**self.provenance, "fit": dict(fit)})

    @functools.cached_property
    def _lexical(self) -> Lexical:
        return Lexical([s.query for s in self.pool])

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        facts = {
            "pool": [[s.query, s.answer, s.digest, s.tokens] for s in self.pool], "room": dataclasses.asdict(self.room), "shots": self.shots,
            "pick": self.pick, "order": self.order, "encoder": self.encoder and self.encoder.facts(),
        }  # fmt: skip
        return facts, {} if self.vectors is None else {"vectors": self.vectors}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        encoder = facts["encoder"]
        return cls(
            pool=tuple(Solved(*row) for row in facts["pool"]), room=Room(**facts["room"]), shots=facts["shots"], pick=facts["pick"],
            order=facts["order"], encoder=Encoder(**encoder) if encoder else None, vectors=tensors.get("vectors"),
        )  # fmt: skip


class Lexical:
    """BM25 of a query over texts (bm25s, as in Lucene)."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        held = [_terms(t) for t in texts]
        self.size, self.known = len(texts), {t for row in held for t in row}
        self.index = bm25s.BM25(method="lucene", backend="numpy")
        if self.known:
            self.index.index(held, show_progress=False)

    def __call__(self, query: str) -> Tensor:
        """(texts,) float32; 0 where a text shares no term with the query."""
        asked = [t for t in _terms(query) if t in self.known]
        return torch.from_numpy(self.index.get_scores(asked)) if asked else torch.zeros(self.size)


def _terms(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
