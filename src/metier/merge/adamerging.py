"""AdaMerging: coefficients for experts' changes, per task or per layer, that make the merged model sure of unlabelled inputs.

Paper:       Yang et al. 2023, arXiv:2310.02575, equations 4 and 5.
Formula:     W^(l) = W0^(l) + sum_i c_i^(l) (W_i^(l) - W0^(l)); c = argmin mean H(p(. | x)), from c = 0.3, kept in [0, 1].
Shapes:      every expert's tensor S; c (k,) for the model (blocks='model', task-wise), a layer or a tensor; result S.
Units:       start, a factor; H in nats; lr, step size of AdamW at its peak.
Randomness:  the order of examples, by the run's seed.
Cost:        k changes in float32 in memory and full tuning's time; k coefficients a block are trained, a dense change is stored.
Deviations:  any model and not CLIP's image encoder only: an encoder's head or, for models that write, the likelihoods of the choices make
             the distribution. The entropies are over the task at hand, its train inputs without their labels; the authors sum over
             all experts' test sets. Their code calls each tensor a layer: blocks='tensor'; here blocks='layer' is one block of the
             network. AdaMerging++ (trimmed, sign-elected changes) is not there: give it experts that `metier merge ties` made.
             The learning rate warms up and falls linearly. peft, mergekit: neither has it.
Errors:      NotApplicable for tasks without choices.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from metier import check
from metier.errors import UserError
from metier.merge._coefs import Coefs
from metier.merge._experts import open_experts
from metier.merge._guesses import blind, entropy, unlabelled
from metier.merge._live import head_of, learner, stacks
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run, fit

ABOUT = About(place="weights", papers=(96,), kinds=("choose",), trains=True, reads=("experts",), search={"lr": (1e-3, 1e-2)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of AdaMerging."""

    experts: tuple[str, ...]
    """What is merged: folders of deltas, specialists, PEFT adapters or full checkpoints; comma-separated."""
    blocks: Literal["model", "layer", "tensor"] = "layer"
    """What has a coefficient of its own for each expert: the model (task-wise), a layer, or a tensor."""
    start: float = 0.3
    """Coefficient that learning begins from."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    batch_size: int = 16
    """Inputs a step."""

    def __post_init__(self) -> None:
        if not self.experts:
            raise UserError("experts: none given. Name one or more.")
        check.one_of("blocks", self.blocks, ("model", "layer", "tensor"))
        check.number("start", self.start, low=0, high=1)
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)


def adamerging(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Learn coefficients that minimise the entropy of the merged model's choices."""
    bodies, experts = open_experts(settings.experts, start)
    coefs = Coefs(stacks(bodies, start.base.device), settings.blocks, settings.start, limits=(0.0, 1.0))
    task = blind(task)
    with start.attached():
        what = learner(start, task, coefs.parameters, coefs.change, coefs.entries, list(coefs.stacks), head_of(start, task, experts))
        what.objective = unlabelled(what, task, entropy)
        made = fit(what, run, lr=settings.lr, batch_size=settings.batch_size, pack=False, keep_best=False).change
    return dataclasses.replace(made, provenance={"coefs": coefs.told()})  # type: ignore[type-var, return-value]
