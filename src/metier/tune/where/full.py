"""Full fine-tuning: every weight may move.

Paper:       none; the reference that parameter-efficient methods are compared with.
Formula:     W' = argmin_W L(W; task), from W0; the change is W' - W0.
Shapes:      one dense change per tensor of the base; tied tensors are stored once.
Units:       lr, step size of AdamW at its peak; weight_decay, factor.
Randomness:  the order of examples, by the run's seed.
Cost:        6 N FLOPs a token; N gradients and 2 N optimiser numbers in memory; N numbers stored.
Deviations:  none.
Errors:      UserError on an empty train split; Diverged where the loss is not a number.
"""

from __future__ import annotations

from dataclasses import dataclass

from metier import check
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run
from metier.train.moving import tune

ABOUT = About(place="weights", trains=True, search={"lr": (1e-4, 5e-4, 2e-3)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of full fine-tuning."""

    lr: float = 3e-4
    """Peak learning rate of AdamW."""
    batch_size: int = 16
    """Examples a step."""
    weight_decay: float = 0.0
    """Decoupled weight decay of AdamW."""

    def __post_init__(self) -> None:
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)
        check.number("weight_decay", self.weight_decay, low=0)


def full(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Train all weights of the base on the task."""
    return tune(start, task, run, lambda name, p: True, lr=settings.lr, batch_size=settings.batch_size, weight_decay=settings.weight_decay)
