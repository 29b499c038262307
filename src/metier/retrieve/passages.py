"""Passages: the change that shows each example the passages found for it, with what it needs to find them again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from torch import Tensor

from metier.errors import BaseMismatch
from metier.model import Base, InputChange, Specialist, load_base
from metier.retrieve.index import Lexical, Passage, fuse, ranking
from metier.task import Example, Prompt, Task

DEPTH = 100  # how far down each ranking fusion looks
SAMPLE = 500  # examples of a split by which the room for passages is measured


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
    """A base whose embeddings are compared, known by name and fingerprint; it is loaded when first needed."""

    name: str
    fingerprint: str
    dtype: str
    base: Base | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, base: Base) -> Encoder:
        """A base that is in memory already."""
        return cls(base.path or base.name, base.fingerprint, str(next(base.model.parameters()).dtype).removeprefix("torch."), base)

    @classmethod
    def named(cls, name: str) -> Encoder:
        """The base of that name."""
        return dataclasses.replace(cls.of(load_base(name, chat=False)), name=name)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Normalised embeddings: (texts, hidden). Raises BaseMismatch where the name now stands for other weights."""
        if self.base is None:
            found = load_base(self.name, chat=False, dtype=self.dtype)
            if found.fingerprint != self.fingerprint:
                raise BaseMismatch(
                    f"{self.name}: its weights are {found.fingerprint[:16]}, those that embedded the passages {self.fingerprint[:16]}. Index again."
                )
            self.base = found
        return _embedded(self.base, tuple(texts))

    def facts(self) -> dict[str, str]:
        """What is saved of it."""
        return {"name": self.name, "fingerprint": self.fingerprint, "dtype": self.dtype}


_RECENT: dict[tuple[str, str], Tensor] = {}  # the last two corpora, so that a search over settings embeds them once


def _embedded(base: Base, texts: tuple[str, ...]) -> Tensor:
    key = (base.fingerprint, hashlib.sha256(repr(texts).encode()).hexdigest())
    if key in _RECENT:
        return _RECENT[key]
    vectors = Specialist(base).embed(texts).cpu()
    if len(texts) > 1:
        while len(_RECENT) > 1:
            del _RECENT[next(iter(_RECENT))]
        _RECENT[key] = vectors
    return vectors


def sizes(base: Base, found: Sequence[Passage]) -> tuple[int, ...]:
    """Tokens that each passage adds to a prompt, and one more in case its ends are cut into tokens differently there."""
    rows = base.tokenizer([f"Passage: {p.text}\n" for p in found], add_special_tokens=False, verbose=False)["input_ids"]
    return tuple(len(r) + 1 for r in rows)


@dataclass(frozen=True)
class Passages(InputChange):
    """Shows the `count` best passages that there is room for.

    tokens    what each passage adds to a prompt        retriever  'bm25', 'dense' or 'fused'
    vectors   embeddings of the passages by `encoder`, where they are compared: (passages, hidden)
    """

    found: tuple[Passage, ...]
    tokens: tuple[int, ...]
    room: Room
    count: int
    retriever: str
    order: str
    encoder: Encoder | None = None
    vectors: Tensor | None = field(default=None, compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, prompt: Prompt, example: Example, task: Task) -> Prompt:
        """The prompt with passages after those it has; the best stands last, or first."""
        shown = self._fitting(prompt, self.best(query_of(prompt, example)))
        texts = [self.found[i].text for i in (reversed(shown) if self.order == "best-last" else shown)]
        return prompt.with_(passages=(*prompt.passages, *texts))

    def best(self, query: str) -> list[int]:
        """Positions of the `count` best passages, best first."""
        lists = []
        if self.retriever != "dense":
            lists.append(ranking(self._lexical.scores(query), above=0.0))
        if self.encoder is not None and self.vectors is not None:
            lists.append(ranking(self.vectors @ self.encoder.embed([query])[0]))
        merged = fuse([ranked[:DEPTH] for ranked in lists]) if len(lists) > 1 else lists[0]
        return merged[: self.count]

    def cut(self, prompt: Prompt, example: Example) -> bool:
        """Whether a prompt has no room for all its passages."""
        best = self.best(query_of(prompt, example))
        return len(self._fitting(prompt, best)) < len(best)

    def noting(self, fit: Mapping[str, Any]) -> Self:
        """The change with a note on how its passages fit, in its provenance."""
        return dataclasses.replace(self, provenance={**self.provenance, "fit": dict(fit)})

    @functools.cached_property
    def _lexical(self) -> Lexical:
        return Lexical([p.text for p in self.found])

    def _fitting(self, prompt: Prompt, best: Sequence[int]) -> list[int]:
        left, shown = self.room.left(prompt), []
        for i in best:
            left -= self.tokens[i]
            if left < 0:
                break
            shown.append(i)
        return shown

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        rows = [[p.document, p.part, p.text, n] for p, n in zip(self.found, self.tokens, strict=True)]
        facts = {
            "passages": rows, "room": dataclasses.asdict(self.room), "count": self.count, "retriever": self.retriever, "order": self.order,
            "encoder": self.encoder and self.encoder.facts(),
        }  # fmt: skip
        return facts, {} if self.vectors is None else {"vectors": self.vectors}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        rows, encoder = facts["passages"], facts["encoder"]
        return cls(
            found=tuple(Passage(d, n, t) for d, n, t, _ in rows), tokens=tuple(r[3] for r in rows), room=Room(**facts["room"]),
            count=facts["count"], retriever=facts["retriever"], order=facts["order"],
            encoder=Encoder(**encoder) if encoder else None, vectors=tensors.get("vectors"),
        )  # fmt: skip


def query_of(prompt: Prompt, example: Example) -> str:
    """What is searched for: the example's `question` or `query`, else its rendered query."""
    for name in ("question", "query"):
        value = example.fields.get(name)
        if isinstance(value, str) and value.strip():
            return value
    return prompt.query
