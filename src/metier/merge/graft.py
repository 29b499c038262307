"""Graft: a sparse mask on an expert's change that keeps its skill: base + mask * change.

Paper:       Panigrahi et al. 2023, arXiv:2302.06600, sections 2 and 3 (equation 3).
Formula:     m0 = the density * n entries of the change d = W_1 - W0 with the largest |d|; g = m0 (1 - s) + (1 - m0) s with
             s = sigmoid(S - bias); S = argmin L(W0 + g * d), from S = 0; mask = the density * n largest entries of g; the graft is mask * d.
Shapes:      per tensor of the change, S, g and mask of its shape; stored: flat indices and values.
Units:       density, fraction of the change's entries that are kept, over all tensors; bias, in logits; lr, step size of AdamW at its peak.
Randomness:  the order of examples and the random mask, by the run's seed.
Cost:        learned: full tuning, with S and its optimiser's state in the place of the weights'; magnitude, random: one pass over the change.
Deviations:  S is learnt by AdamW in the one training loop, the authors use plain SGD (lr 1e7), which weighs an entry by its gradient.
             They round g, so that the mask's size floats about the base mask's; here it is exact, ties by lowest index. As theirs, looks
             at dev see the rounded mask; theirs add the score on train. Every tensor that the expert changes counts, they leave out
             embeddings and head. An encoder's head is the expert's, whole. peft, mergekit: no such method.
Errors:      UserError where there is not exactly one expert, or density keeps no entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from metier import check
from metier.delta import Delta, New, Sparse
from metier.delta.combine import same_base
from metier.delta.entry import Entry
from metier.delta.record import record
from metier.errors import UserError
from metier.merge._experts import open_experts
from metier.merge._largest import counted, largest
from metier.merge._live import head_of, learner, stacks
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run, fit

ABOUT = About(place="weights", papers=(1,), trains=True, reads=("experts",), experts=(1, 1), search={"lr": (0.03, 0.1, 0.3)})
Masks = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of grafting."""

    experts: tuple[str, ...]
    """The one expert whose skill is localised: folder of a delta, specialist, PEFT adapter or full checkpoint."""
    density: float = 0.01
    """Fraction of the change's entries that are kept."""
    mask: Literal["learned", "magnitude", "random"] = "learned"
    """How the entries are chosen; magnitude and random are controls of the same size."""
    bias: float = 5.0
    """How far from being flipped the base mask's entries begin, in logits."""
    lr: float = 0.1
    """Peak learning rate of AdamW."""
    batch_size: int = 16
    """Examples a step."""

    def __post_init__(self) -> None:
        if len(self.experts) != 1:
            raise UserError(f"experts: a graft is made from exactly one expert; got {len(self.experts)}.")
        check.fraction("density", self.density)
        check.one_of("mask", self.mask, ("learned", "magnitude", "random"))
        check.number("bias", self.bias, low=0)
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)


def graft(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Choose the entries of an expert's change that carry its skill on the task."""
    bodies, experts = open_experts(settings.experts, start)
    change = {n: s[0] for n, s in stacks(bodies, start.base.device).items()}
    count = counted("graft", settings.density, change)
    run.spent.trainable = 0
    base = largest({n: d.abs() for n, d in change.items()}, count)
    with start.attached():
        head = head_of(start, task, experts)
        if settings.mask != "learned":
            chosen = base if settings.mask == "magnitude" else _random(change, count, run.seed)
            what = learner(start, task, {}, change.__getitem__, lambda: kept(change, chosen), list(change), head)
            return what.change()  # type: ignore[return-value]
        live = {n: nn.Parameter(torch.zeros_like(d)) for n, d in change.items()}

        def share(name: str) -> Tensor:
            flipped = torch.sigmoid(live[name] - settings.bias)
            return torch.where(base[name], 1 - flipped, flipped)

        def rounded() -> dict[str, Entry]:
            with torch.no_grad():
                return kept(change, largest({n: share(n) for n in change}, count))

        parameters = {f"mask.{n}": p for n, p in live.items()}
        what = learner(start, task, parameters, lambda n: share(n) * change[n], rounded, list(change), head)
        return fit(what, run, lr=settings.lr, batch_size=settings.batch_size).change  # type: ignore[return-value]


def kept(change: Mapping[str, Tensor], masks: Masks) -> dict[str, Entry]:
    """The masked entries of a change, zero or not, on the CPU."""
    entries: dict[str, Entry] = {}
    for name, mask in masks.items():
        where = mask.flatten().nonzero().squeeze(1)
        entries[name] = Sparse(where.cpu(), change[name].flatten()[where].float().cpu(), mask.shape)
    return entries


def overlap(grafts: Sequence[Delta]) -> Tensor:
    """(k, k): the share of graft i's entries that graft j has too, over all tensors. A graft without entries shares 0."""
    sets = [support(g) for g in grafts]
    sizes = [sum(len(i) for i in s.values()) for s in sets]
    shared = [[sum(int(torch.isin(i, b[n]).sum()) for n, i in a.items() if n in b) for b in sets] for a in sets]
    return torch.tensor([[both / max(size, 1) for both in row] for row, size in zip(shared, sizes, strict=True)])


def support(graft: Delta) -> dict[str, Tensor]:
    """Tensor -> flat indices of its entries that a graft holds. Raises UserError for a change that is not sparse."""
    found = {}
    for name, entry in graft.entries.items():
        if isinstance(entry, Sparse):
            found[name] = entry.indices
        elif not isinstance(entry, New):
            raise UserError(f"graft: the change of '{name}' is {type(entry).__name__}, not Sparse. Give grafts.")
    return found


def in_sequence(grafts: Sequence[Delta]) -> Delta:
    """Grafts of several tasks on one base, in the order they were learnt: an entry belongs to the first graft that holds it.

    So no later task overwrites an earlier one. Heads are left out: each belongs to one task.
    """
    together = Delta({})
    for graft in grafts:
        taken, entries = support(together), {}
        for name in support(graft):
            entry = graft.entries[name]
            free = ~torch.isin(entry.indices, taken[name]) if name in taken else torch.ones_like(entry.indices, dtype=torch.bool)  # type: ignore[union-attr]
            entries[name] = Sparse(entry.indices[free], entry.values[free], entry.shape)  # type: ignore[union-attr]
        together = _union(together, Delta(entries, graft.base))
    return together.made(record("in sequence", *(g.record for g in grafts), method="graft", papers=list(ABOUT.papers)))


def _union(a: Delta, b: Delta) -> Delta:
    """The sum of two sparse changes without common entries; entries that are zero stay entries."""
    entries: dict[str, Entry] = {**a.entries, **b.entries}
    for name in set(a.entries) & set(b.entries):
        one, two = a.entries[name], b.entries[name]
        indices, order = torch.cat([one.indices, two.indices]).sort()  # type: ignore[union-attr]
        entries[name] = Sparse(indices, torch.cat([one.values, two.values])[order], one.shape)  # type: ignore[union-attr]
    return Delta(entries, same_base([a, b]))


def _random(change: Mapping[str, Tensor], count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return largest({n: torch.rand(d.shape, generator=generator).to(d.device) for n, d in change.items()}, count)
