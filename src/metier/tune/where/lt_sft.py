"""LT-SFT: tune everything, keep the entries that changed most, rewind, and tune only those: a sparse change that can be added to others.

Paper:       Ansell et al. 2022, arXiv:2110.07560, section 3.1.
Formula:     phase 1: W1 = argmin L(W) + (l1 / N) sum |W - W0|, from W0; mask = the K entries with the largest |W1 - W0|;
             phase 2: from W0 again, the same loss, gradients times mask; the change is W2 - W0 on the mask, 0 elsewhere.
Shapes:      per tuned tensor, flat indices and values of its share of the K entries.
Units:       density, fraction: K = round(density * N), N the entries of all tuned tensors; l1, factor; lr, step size of AdamW at its peak.
Randomness:  the order of examples, by the run's seed, the same in both phases.
Cost:        full tuning, in time and memory, for each half of the budget; K values and K indices stored.
Deviations:  as the paper's task tuning: normalisation layers stay (norms='yes' tunes them), an encoder's new head is tuned whole and
             not counted; embeddings are tuned, and so is the output layer, which the paper's language tuning freezes; one
             iteration; phase 1 is taken as it ends, phase 2 at its best on dev; the mask is K entries over all tensors, ties cut.
Errors:      UserError where density keeps no entry, or the base has nothing to tune; Diverged where the loss is not a number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metier import check
from metier.delta import Delta, Sparse
from metier.delta.entry import Entry
from metier.errors import UserError
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run, Trainable, fit
from metier.train.moving import head_lr, moving
from metier.train.trainable import head_entries, head_parameters, new_head

ABOUT = About(place="weights", papers=(25,), trains=True, search={"lr": (1e-4, 5e-4, 2e-3)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of LT-SFT."""

    density: float = 0.08
    """Fraction of the tuned tensors' entries that change."""
    l1: float = 0.0
    """Weight of the mean absolute distance from the base in the loss, in both phases."""
    lr: float = 3e-4
    """Peak learning rate of AdamW, in both phases."""
    batch_size: int = 16
    """Examples a step."""
    norms: Literal["yes", "no"] = "no"
    """Whether normalisation layers are tuned too."""

    def __post_init__(self) -> None:
        check.fraction("density", self.density)
        check.number("l1", self.l1, low=0)
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)
        check.one_of("norms", self.norms, ("yes", "no"))


def lt_sft(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Find a sparse mask by tuning everything, then tune within it."""
    norms = {f"{n}.{k}" for n, m in start.base.model.named_modules() if _normalises(m) for k, _ in m.named_parameters(recurse=False)}
    with start.attached() as model, moving(model, lambda n, _: settings.norms == "yes" or n not in norms) as (parameters, before):
        count, total = _count(parameters, settings.density), sum(p.numel() for p in parameters.values())
        options: dict[str, Any] = {"lr": settings.lr, "batch_size": settings.batch_size}

        def trainable(masks: Mapping[str, Tensor], seen: Task) -> Trainable:
            head = new_head(start, task)

            def change() -> WeightChange:
                entries: dict[str, Entry] = {
                    n: _sparse(p.detach().float() - before[n].float(), masks[n]) for n, p in parameters.items() if n in masks
                }
                return WeightChange(Delta(entries | head_entries(head), start.base.fingerprint), task.choices if head else ())

            def penalty() -> Tensor:
                return settings.l1 / total * torch.stack([(p - before[n]).abs().sum() for n, p in parameters.items()]).sum()

            return Trainable(
                start,
                seen,
                parameters | head_parameters(head),
                change,
                head=head,
                lr_factor=head_lr,
                penalty=penalty if settings.l1 else None,
            )

        fit(trainable({}, replace(task, dev=())), run.part(0.5, "dense"), keep_best=False, **options)
        masks = top({n: (p.detach() - before[n]).abs() for n, p in parameters.items()}, count)
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(before[name])
        what, second = trainable(masks, task), run.part(0.5, "sparse")
        with masked(parameters, masks):
            found = fit(what, second, **options)
        run.curve += second.curve
        run.spent.trainable = count + sum(p.numel() for n, p in what.parameters.items() if n not in parameters)
        return found.change  # type: ignore[return-value]


def top(sizes: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks, shaped as the tensors, of exactly the `count` largest entries over all of them."""
    flat = torch.cat([s.flatten() for s in sizes.values()])
    mask = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    mask[flat.topk(count, sorted=False).indices] = True
    parts = mask.split([s.numel() for s in sizes.values()])
    return {n: part.view(s.shape) for (n, s), part in zip(sizes.items(), parts, strict=True)}


@contextlib.contextmanager
def masked(parameters: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Gradients times masks, for the time of a with-block."""
    before, handles = {n: p.requires_grad for n, p in parameters.items()}, []
    try:
        for name, p in parameters.items():
            p.requires_grad_(True)  # a hook can only be put on what takes gradients
            handles.append(p.register_hook(lambda g, mask=masks[name]: g * mask))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name, p in parameters.items():
            p.requires_grad_(before[name])


def _count(parameters: Mapping[str, nn.Parameter], density: float) -> int:
    total = sum(p.numel() for p in parameters.values())
    if total == 0:
        raise UserError("lt-sft: the base has no weights outside its normalisation layers. Use another method.")
    if (count := round(density * total)) < 1:
        raise UserError(f"lt-sft: density {density} of {total} entries keeps none. Say at least {1 / total:.2g}.")
    return count


def _sparse(value: Tensor, mask: Tensor) -> Sparse:
    """The masked entries of a change, zero or not, on the CPU."""
    where = mask.flatten().nonzero().squeeze(1)
    return Sparse(where.cpu(), value.flatten()[where].cpu(), value.shape)


def _normalises(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not isinstance(module, nn.Linear)
