"""Passages: the change that shows each example the passages found for it, with what it needs to find them again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from metier.model import Base, InputChange
from metier.model.known import Known
from metier.retrieve.index import Passage, fuse, ranking
from metier.task import Example, Prompt, Task
from metier.task.lexical import Lexical, lexical

DEPTH = 100  # how far down each ranking fusion looks


@dataclass(frozen=True)
class Passages(InputChange):
    """Shows the `count` best passages that there is room for.

    base      tells what fits                           retriever  'bm25', 'dense' or 'fused'
    vectors   embeddings of the passages by `encoder`, where they are compared: (passages, hidden)
    """

    found: tuple[Passage, ...]
    base: Known
    count: int
    retriever: str
    order: str
    encoder: Known | None = None
    vectors: Tensor | None = field(default=None, compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, prompt: Prompt, example: Example, task: Task) -> Prompt:
        """The prompt with passages after those it has; the best stands last, or first."""
        return self._with(prompt, self.fitting(prompt, example, task))

    def fitting(self, prompt: Prompt, example: Example, task: Task) -> list[int]:
        """Positions of the passages for a prompt, best first, as many as there is room for."""
        shown = self.best(query_of(prompt, example))
        while shown and not self.base.fits(self._with(prompt, shown), example, task):
            shown.pop()
        return shown

    def bind(self, base: Base) -> None:
        """See `InputChange.bind`."""
        for known in (self.base, self.encoder):
            if known is not None:
                known.bind(base)

    def _with(self, prompt: Prompt, shown: Sequence[int]) -> Prompt:
        texts = [self.found[i].text for i in (reversed(shown) if self.order == "best-last" else shown)]
        return prompt.with_(passages=(*prompt.passages, *texts))

    def best(self, query: str) -> list[int]:
        """Positions of the `count` best passages, best first."""
        lists = []
        if self.retriever != "dense":
            lists.append(ranking(torch.from_numpy(self._lexical.scores(query)), above=0.0))
        if self.encoder is not None and self.vectors is not None:
            lists.append(ranking(self.vectors @ self.encoder.embed([query])[0]))
        merged = fuse([ranked[:DEPTH] for ranked in lists]) if len(lists) > 1 else lists[0]
        return merged[: self.count]

    def noting(self, fit: Mapping[str, Any]) -> Self:
        """The change with a note on how its passages fit, in its provenance."""
        return dataclasses.replace(self, provenance={**self.provenance, "fit": dict(fit)})

    @functools.cached_property
    def _lexical(self) -> Lexical:
        return lexical(tuple(p.text for p in self.found))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        facts = {
            "passages": [[p.document, p.part, p.text] for p in self.found], "base": self.base.facts(), "count": self.count,
            "retriever": self.retriever, "order": self.order, "encoder": self.encoder and self.encoder.facts(),
        }  # fmt: skip
        return facts, {} if self.vectors is None else {"vectors": self.vectors}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        found, encoder = tuple(Passage(*row) for row in facts["passages"]), facts["encoder"]
        return cls(
            found, Known(**facts["base"]), facts["count"], facts["retriever"], facts["order"],
            Known(**encoder) if encoder else None, tensors.get("vectors"),
        )  # fmt: skip


def query_of(prompt: Prompt, example: Example) -> str:
    """What is searched for: the example's `question` or `query`, else its rendered query."""
    for name in ("question", "query"):
        value = example.fields.get(name)
        if isinstance(value, str) and value.strip():
            return value
    return prompt.query
