"""BitFit: only bias terms move.

Paper:       Ben Zaken et al. 2021, arXiv:2106.10199.
Formula:     y = W x + b + db, W frozen.
Shapes:      db as b.
Units:       lr, step size of AdamW at its peak.
Randomness:  the order of examples, by the run's seed.
Cost:        4 N FLOPs a token (no weight gradients); gradients and optimiser for the biases only.
Deviations:  models without biases (Llama and most of today's) have none to tune: there the gains of the normalisation
             layers move instead, which others call LN-tuning; `norms` says which.
Errors:      UserError where the base has neither, or where norms='no' and it has no bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from metier import check
from metier.errors import UserError
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run
from metier.train.moving import tune

ABOUT = About(place="weights", trains=True, search={"lr": (1e-3, 5e-3, 2e-2)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of BitFit."""

    lr: float = 5e-3
    """Peak learning rate of AdamW."""
    batch_size: int = 16
    """Examples a step."""
    norms: Literal["auto", "yes", "no"] = "auto"
    """Whether normalisation gains move too: 'auto' only where the model has no biases."""

    def __post_init__(self) -> None:
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)


def bitfit(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Train biases (or normalisation gains) on the task."""
    model = start.base.model
    gains = {f"{n}.weight" for n, m in model.named_modules() if "norm" in type(m).__name__.lower() and not isinstance(m, nn.Linear)}
    biases = {n for n, _ in model.named_parameters() if n.endswith("bias")}
    chosen = biases | (gains if settings.norms == "yes" or (settings.norms == "auto" and not biases) else set())
    if not chosen:
        raise UserError(f"bitfit: {start.base.name} has no biases. Say norms='yes' to tune normalisation gains, or use another method.")
    return tune(start, task, run, lambda name, p: name in chosen, lr=settings.lr, batch_size=settings.batch_size)
