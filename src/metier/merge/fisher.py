"""Fisher: the mean of experts, every entry weighted by how much the expert's predictions depend on it.

Paper:       Matena & Raffel 2021, arXiv:2111.09832, equations 2 and 3.
Formula:     W = sum_i c_i F_i W_i / sum_i c_i F_i, entry by entry;
             F_i = mean over x of E_{y ~ p_i(. | x)} (d log p_i(y | x) / dW)^2, at least `floor`.
Shapes:      F_i, every expert's tensor and the result: S.
Units:       coef, a factor for each expert; floor, as F (squared nats per weight); examples, count for each expert.
Randomness:  none: the first examples of the train split.
Cost:        a backward pass for each example and choice, k changes and k Fishers in float32 in memory.
Deviations:  the expectation is exact over a task's choices; for tasks of kind 'generate' it is the answer in the data (the empirical
             Fisher), where the paper samples. Formed of differences to the base in float32. normalise='yes' divides each expert's
             Fisher by its norm, which the authors' code does by default. Tensors that are no parameters get the plain mean.
             peft, mergekit: neither has it.
Errors:      UserError where the number of tasks or coefs is not that of the experts, or a task has no train split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metier import check
from metier.delta import At, Entry, Merge, identity, merged
from metier.delta.parts import mean
from metier.errors import UserError
from metier.merge._data import at_work, tasks_of
from metier.merge._experts import made_of, open_experts
from metier.merge._guesses import Guesses
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run, Trainable
from metier.train.items import collate, items

ABOUT = About(place="weights", papers=(96,), reads=("experts", "tasks"), effort=4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of Fisher merging."""

    experts: tuple[str, ...]
    """What is merged: folders of deltas, specialists, PEFT adapters or full checkpoints; comma-separated."""
    coef: tuple[float, ...] = ()
    """Factor of each expert, in their order; none: 1 each."""
    tasks: tuple[str, ...] = ()
    """Task of each expert, in their order, whose train split its Fisher is taken on; none: the task at hand for all."""
    examples: int = 64
    """Examples for each expert."""
    floor: float = 1e-6
    """Least value of the Fisher."""
    normalise: Literal["yes", "no"] = "no"
    """Whether each expert's Fisher is divided by its norm."""

    def __post_init__(self) -> None:
        if not self.experts:
            raise UserError("experts: none given. Name one or more.")
        check.integer("examples", self.examples, low=1)
        check.number("floor", self.floor, above=0)
        check.one_of("normalise", self.normalise, ("yes", "no"))


def fisher(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Merge experts entry by entry, weighted by their Fisher information."""
    bodies, experts = open_experts(settings.experts, start)
    found = []
    for expert, own in zip(experts, tasks_of(settings.tasks, task, len(experts)), strict=True):
        with at_work(start, expert, own, settings.examples) as what:
            found.append(information(what))
    if settings.normalise == "yes":
        found = [_normalised(f) for f in found]
    delta = merged(precision_weighted(found, settings.floor), bodies, coefs=settings.coef)
    return made_of(delta, start, task, experts)


def information(what: Trainable) -> dict[str, Tensor]:
    """The diagonal Fisher information of each parameter in `what`, on the examples of its task: name -> S, float32."""
    squares = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in what.parameters.items()}
    names, parameters = list(what.parameters), list(what.parameters.values())
    with what.live():
        for share, logprob in _likelihoods(what):
            gradients = torch.autograd.grad(logprob, parameters, retain_graph=True, allow_unused=True)
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    squares[name].addcmul_(gradient.float(), gradient.float(), value=share)
    return {n: (s / len(what.task.train)).cpu() for n, s in squares.items()}


def _likelihoods(what: Trainable) -> Iterator[tuple[float, Tensor]]:
    """(weight in the expectation, log p(y | x) with gradients) for every example and choice, or for every example's answer."""
    rows = items(what.start, what.task, what.task.train, reserve=what.soft())
    guesses = Guesses(what, what.task) if what.task.kind == "choose" else None
    for row in rows:
        batch = collate([row], what.start, pack=False).to(what.start.base.device)
        if guesses is None:
            yield 1.0, -what.row_losses(batch)[0]
        else:
            logprobs = guesses.of(batch)[0]
            for logprob in logprobs:
                yield float(logprob.detach().exp()), logprob


def precision_weighted(fishers: Sequence[Mapping[str, Tensor]], floor: float) -> Merge:
    """The mean of changes weighted by coef * max(F, floor), entry by entry; a tensor without Fishers gets the mean weighted by coef."""

    def plan(name: str, entries: Sequence[Entry]) -> list[Tensor] | None:
        return [f[name].reshape(-1) for f in fishers] if all(name in f for f in fishers) else None

    def combine(at: At, stack: Tensor, coefs: Sequence[float], known: Any) -> Tensor:
        if known is None:
            return mean(at, stack, coefs)
        weights = torch.stack([c * f[at.start : at.start + stack.shape[1]].clamp(min=floor) for c, f in zip(coefs, known, strict=True)])
        return stack.mul_(weights).sum(0).div_(weights.sum(0))

    return Merge(identity(), combine, identity(), plan=plan)


def _normalised(fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    norm = float(torch.stack([f.square().sum() for f in fisher.values()]).sum().sqrt()) if fisher else 0.0
    return {n: f / norm if norm else f for n, f in fisher.items()}
