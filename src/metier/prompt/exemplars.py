"""Exemplars: the change that shows solved examples before the query, with what it needs to choose them again."""

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
from metier.task import Example, Prompt, Task
from metier.task.lexical import Lexical, lexical


@dataclass(frozen=True, slots=True)
class Solved:
    """An exemplar as it is shown: rendered query and answer; and its example's digest."""

    query: str
    answer: str
    digest: str


@dataclass(frozen=True)
class Exemplars(InputChange):
    """Shows `shots` exemplars from `pool`: its first ones ('random', 'balanced'), or the most alike ('bm25', 'nearest').

    base     tells what fits, and embeds for 'nearest'
    vectors  embeddings of the pool's queries for 'nearest': (pool, hidden)
    """

    pool: tuple[Solved, ...]
    base: Known
    shots: int
    pick: str
    order: str
    vectors: Tensor | None = field(default=None, compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, prompt: Prompt, example: Example, task: Task) -> Prompt:
        """The prompt with exemplars after those it has; the most alike stands last, or first."""
        return self._with(prompt, self.fitting(prompt, example, task))

    def fitting(self, prompt: Prompt, example: Example, task: Task) -> list[int]:
        """Positions of the exemplars for a prompt, best first, as many as there is room for; never the example itself."""
        own = example.digest()
        shown = [i for i in self.ranking(prompt.query)[: self.shots + 1] if self.pool[i].digest != own][: self.shots]
        while shown and not self.base.fits(self._with(prompt, shown), example, task):
            shown.pop()
        return shown

    def bind(self, base: Base) -> None:
        """See `InputChange.bind`."""
        self.base.bind(base)

    def _with(self, prompt: Prompt, shown: Sequence[int]) -> Prompt:
        pairs = [(self.pool[i].query, self.pool[i].answer) for i in (reversed(shown) if self.order == "best-last" else shown)]
        return prompt.with_(exemplars=(*prompt.exemplars, *pairs))

    def ranking(self, query: str) -> list[int]:
        """Positions in the pool, best first; equal ones in the pool's order."""
        if self.pick == "bm25":
            scores = torch.from_numpy(self._lexical.scores(query))
        elif self.vectors is not None:
            scores = self.vectors @ self.base.embed([query])[0]
        else:
            return list(range(len(self.pool)))
        return scores.argsort(descending=True, stable=True).tolist()

    def noting(self, fit: Mapping[str, Any]) -> Self:
        """The change with a note on how its exemplars fit, in its provenance."""
        return dataclasses.replace(self, provenance={**self.provenance, "fit": dict(fit)})

    @functools.cached_property
    def _lexical(self) -> Lexical:
        return lexical(tuple(s.query for s in self.pool))

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        pool = [[s.query, s.answer, s.digest] for s in self.pool]
        facts = {"pool": pool, "base": self.base.facts(), "shots": self.shots, "pick": self.pick, "order": self.order}
        return facts, {} if self.vectors is None else {"vectors": self.vectors}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        pool = tuple(Solved(*row) for row in facts["pool"])
        return cls(pool, Known(**facts["base"]), facts["shots"], facts["pick"], facts["order"], tensors.get("vectors"))
