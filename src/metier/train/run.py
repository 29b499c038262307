"""Run: what a method may spend, where it may write, and what it has spent. Budget: how much that is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from metier.errors import UserError

Unit = Literal["examples", "tokens", "seconds"]
_UNITS: dict[str, tuple[Unit, float]] = {
    "s": ("seconds", 1), "m": ("seconds", 60), "min": ("seconds", 60), "h": ("seconds", 3600),
    "ex": ("examples", 1), "examples": ("examples", 1), "tok": ("tokens", 1), "tokens": ("tokens", 1),
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """What one trial may spend on search and training together: examples seen, tokens seen, or seconds."""

    amount: float
    unit: Unit = "examples"

    @classmethod
    def parse(cls, text: str | Budget) -> Budget:
        """'5m', '90s', '1h', '2000ex', '1e6tok'. Raises UserError for anything else."""
        if isinstance(text, Budget):
            return text
        match = re.fullmatch(r"\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*", str(text).lower())
        if not match or match[2] not in _UNITS or not 0 < float(match[1]) < math.inf:
            raise UserError(f"budget: cannot read {text!r}. Write a time (90s, 5m, 1h), examples (2000ex) or tokens (1e6tok).")
        unit, factor = _UNITS[match[2]]
        return cls(float(match[1]) * factor, unit)

    def share(self, part: float) -> Budget:
        """A part of the budget."""
        return replace(self, amount=self.amount * part)

    def __str__(self) -> str:
        return f"{self.amount:g}{ {'examples': 'ex', 'tokens': 'tok', 'seconds': 's'}[self.unit] }"


@dataclass
class Spent:
    """What a trial has spent. flops are estimated (see `metier.train.cost.flops_per_token`)."""

    examples: int = 0
    tokens: int = 0
    flops: float = 0.0
    trainable: int = 0


@dataclass
class Run:
    """The conditions a method runs under.

    precision  'float32', or 'bf16' for autocast in training (scores are always taken at the base's own precision)
    accumulate how many parts a step's examples are split into, gradients adding up: the same result in less memory
    workdir    where checkpoints of unfinished training go; None keeps none
    tell       called with (steps done, steps planned, loss) while training
    """

    seed: int = 0
    budget: Budget = field(default_factory=lambda: Budget(2000))
    precision: str = "float32"
    accumulate: int = 1
    workdir: Path | None = None
    tell: Callable[[int, int, float], None] | None = None
    say: Callable[[str], None] | None = None
    spent: Spent = field(default_factory=Spent)
    curve: list[dict[str, Any]] = field(default_factory=list)

    def part(self, share: float, name: str) -> Run:
        """A run with a share of the budget, its own checkpoints and its own curve, charged to the same account."""
        place = None if self.workdir is None else self.workdir / name
        return replace(self, budget=self.budget.share(share), workdir=place, curve=[])
