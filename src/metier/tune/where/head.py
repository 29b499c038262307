"""Head tuning: only the output layer moves; for an encoder this is a linear probe.

Paper:       Alain & Bengio 2016, arXiv:1610.01644 (probes); Kumar et al. 2022, arXiv:2202.10054 (linear probing and OOD).
Formula:     logits = (U + dU) h(x), h frozen; for an encoder U starts as the labels' embeddings.
Shapes:      dU (vocabulary, hidden), or a new head (labels, hidden) and bias (labels,).
Units:       lr, step size of AdamW at its peak.
Randomness:  the order of examples, by the run's seed.
Cost:        forward pass plus the head's gradient; no back-propagation through the body.
Deviations:  where a causal model ties its output layer to its embedding, they are untied: the embedding stays.
Errors:      UserError where the base has no output layer (and is no encoder).
"""

from __future__ import annotations

from dataclasses import dataclass

from metier import check
from metier.errors import UserError
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run
from metier.train.moving import tune

ABOUT = About(place="weights", trains=True, search={"lr": (3e-4, 1e-3, 5e-3)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of head tuning."""

    lr: float = 1e-3
    """Peak learning rate of AdamW (an encoder's new head uses ten times it)."""
    batch_size: int = 16
    """Examples a step."""

    def __post_init__(self) -> None:
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)


def head(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Train the output layer on the task."""
    model = start.base.model
    names: set[str] = set()
    if start.base.family != "encoder":
        out = model.get_output_embeddings()
        if out is None:
            raise UserError(f"head: {start.base.name} has no output layer to tune. Use another method.")
        names = {f"{n}.{k}" for n, m in model.named_modules() if m is out for k, _ in m.named_parameters(recurse=False)}
    return tune(start, task, run, lambda name, p: name in names, lr=settings.lr, batch_size=settings.batch_size)
