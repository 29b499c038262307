"""Self-consistency: sample several answers and give the one that most of them agree on.

Paper:       Wang et al. 2022, arXiv:2203.11171, section 2 (unweighted majority); the voting of row 29, arXiv:2310.10047.
Formula:     y = argmax_a #{i : norm(y_i) = a}, y_i ~ p^(1/T)(. | x), i = 1..n; confidence = its share of n.
Shapes:      none.
Units:       samples, count; temperature, factor.
Randomness:  each sample has a stream of its own, from the call's seed, the example's id and the sample's number.
Cost:        n answers for every answer, from one reading of the prompt each.
Deviations:  no top-k cut while sampling (the paper: 40); answers are compared as the task's scorer normalises them; among equal
             votes the answer whose samples were likelier per token wins, then the first drawn; its first sample is what is said.
Errors:      UserError on an encoder (which writes nothing).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor

from metier import check
from metier.method import About
from metier.model import OutputChange, Specialist
from metier.model.causal import Generated
from metier.task import Example, Task
from metier.task.score import SCORERS
from metier.train import Run

ABOUT = About(
    place="out", effort=5.0, papers=(29,), families=("causal", "seq2seq"), kinds=("generate",), search={"temperature": (0.4, 0.7, 1.0)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of self-consistency."""

    samples: int = 10
    """How many answers are drawn."""
    temperature: float = 0.7
    """Log-probabilities are divided by it before a token is drawn."""

    def __post_init__(self) -> None:
        check.integer("samples", self.samples, low=1)
        check.number("temperature", self.temperature, above=0)


@dataclass(frozen=True)
class Majority(OutputChange):
    """The majority of `count` answers sampled at `temperature`."""

    place: ClassVar[str] = "out"
    count: int
    temperature: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def samples(self) -> tuple[int, float]:
        """See `OutputChange.samples`."""
        return self.count, self.temperature

    def vote(self, samples: Sequence[Generated], example: Example, task: Task) -> tuple[str, float]:
        """See `OutputChange.vote`."""
        normalise = SCORERS[task.metric].normalise
        groups: dict[str, list[Generated]] = {}
        for sample in samples:
            groups.setdefault(normalise(sample.text), []).append(sample)
        best = max(groups.values(), key=lambda g: (len(g), sum(s.logprob for s in g) / len(g)))
        return best[0].text, len(best) / len(samples)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        return {"samples": self.count, "temperature": self.temperature}, {}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        return cls(int(facts["samples"]), float(facts["temperature"]))


def self_consistency(start: Specialist, task: Task, settings: Settings, run: Run) -> Majority:
    """Let samples vote; nothing is learnt."""
    return Majority(settings.samples, settings.temperature)
