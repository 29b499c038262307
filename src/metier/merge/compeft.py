"""ComPEFT: keep the largest changes, and of those only their signs and one scale.

Paper:       Yadav et al. 2023, arXiv:2311.13171, Algorithm 1.
Formula:     s = sign of the density * n largest of |D|; D' = scale * s; scale = alpha * std(D), or the mean |D| of what is kept.
Shapes:      every tensor S; its signs S in {-1, 0, 1}; one scale for all tensors (scope='model') or for each (scope='tensor').
Units:       density, a fraction kept in (0, 1]; alpha, a factor on the standard deviation of the whole change.
Randomness:  none.
Cost:        two reads of the delta; about density * (log2(1 / density) + 2.5) bits for each entry, positions Golomb-Rice coded.
Deviations:  where alpha is not given, the scale is the one that is nearest in squares (the paper tunes alpha on dev data:
             `tuned`). Entries that are zero are never kept. Equal magnitudes by lowest index; the authors' topk leaves that open.
             Tensors that the base does not have pass unchanged.
Errors:      UserError where density is outside (0, 1], alpha is not positive, nothing changes, or the standard deviation is 0.

    >>> import torch
    >>> from metier.delta import Delta, Dense
    >>> compressed(Delta({"w": Dense(torch.tensor([3.0, -1.0, 0.1, 0.0]))}), density=0.5)["w"].dense().tolist()
    [2.0, -2.0, 0.0, 0.0]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from metier import check
from metier.delta import Delta, Entry, New, Packed, transformed
from metier.delta.parts import trim
from metier.delta.record import record
from metier.delta.transform import slices
from metier.errors import UserError
from metier.merge._experts import opened_expert
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run

ABOUT = About(place="weights", papers=(115,), reads=("experts",), experts=(1, 1), search={"alpha": (None, 1.0, 2.0, 4.0)})
ALPHAS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of ComPEFT."""

    experts: tuple[str, ...]
    """The one expert whose change is compressed: folder of a delta, specialist, PEFT adapter or full checkpoint."""
    density: float = 0.05
    """Fraction of the change's entries that are kept."""
    alpha: float | None = None
    """The scale in standard deviations of the change; without it the nearest in squares."""
    scope: Literal["tensor", "model"] = "model"
    """What shares a threshold and a scale."""

    def __post_init__(self) -> None:
        if len(self.experts) != 1:
            raise UserError(f"experts: compeft compresses exactly one expert; got {len(self.experts)}.")
        check.fraction("density", self.density)
        check.one_of("scope", self.scope, ("tensor", "model"))
        if self.alpha is not None:
            check.number("alpha", self.alpha, above=0)


def compeft(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Shrink an expert's change to signs and a scale; the search of settings finds the scale on dev, as the paper does."""
    expert = opened_expert(settings.experts[0], start.base)
    return WeightChange(compressed(expert.delta, density=settings.density, alpha=settings.alpha, scope=settings.scope), expert.labels)


def compressed(delta: Delta, *, density: float = 0.05, alpha: float | None = None, scope: Literal["tensor", "model"] = "model") -> Delta:
    """The change as signs at few positions and one scale."""
    Settings(experts=("",), density=density, alpha=alpha, scope=scope)
    old = [n for n in delta if not isinstance(delta[n], New)]
    kept = transformed(trim(density, scope=scope), delta.only(old))
    signs, sums = {}, {}
    for name in old:
        signs[name], sums[name] = _signs(kept[name])
    scales = _scales(delta, signs, sums, alpha, scope)
    entries: dict[str, Entry] = {n: replace(p, scale=scales[n]) for n, p in signs.items() if p.count}
    if flat := [n for n in entries if scales[n] == 0]:
        raise UserError(f"compeft: all entries of '{flat[0]}' are the same, so their standard deviation is 0. Leave alpha out.")
    if not entries:
        raise UserError("compeft: the delta changes nothing, so there is nothing to compress.")
    entries |= {n: delta[n] for n in delta if n not in signs}
    made = {"density": density, "alpha": alpha, "scope": scope}
    return Delta(entries, delta.base, record("compress", delta.record, method="compeft", settings=made, papers=list(ABOUT.papers)))


def tuned(delta: Delta, score: Callable[[Delta], float], *, density: float = 0.05, alphas: Sequence[float] = ALPHAS) -> tuple[Delta, float]:
    """(the compression whose score is highest, its alpha): the paper's search of alpha on dev data; the first of equals is taken."""
    if not alphas:
        raise UserError("compeft: there is no alpha to try. Give one or more.")
    first = compressed(delta, density=density, alpha=alphas[0])
    found = [(score(one := _rescaled(first, alpha / alphas[0])), -i, one, alpha) for i, alpha in enumerate(alphas)]
    best = max(found, key=lambda f: f[:2])
    told = best[2].provenance
    return best[2].made({**told, "settings": {**told["settings"], "alpha": best[3]}}), best[3]


def _rescaled(delta: Delta, factor: float) -> Delta:
    """The same signs, other scale; new tensors stay."""
    return delta.map(lambda _, entry: entry if isinstance(entry, New) else entry.scaled(factor))


def _signs(entry: Entry) -> tuple[Packed, float]:
    """(the signs of the non-zero entries with scale 1, the sum of their magnitudes)."""
    at, positive, total = [], [], 0.0
    for start, values in slices(entry):
        there = values.nonzero().squeeze(1)
        at.append(there + start)
        positive.append(values[there] > 0)
        total += float(values.abs().sum(dtype=torch.float64))
    indices = torch.cat(at) if at else torch.empty(0, dtype=torch.int64)
    return Packed.of(indices, torch.cat(positive) if positive else torch.empty(0, dtype=torch.bool), 1.0, entry.shape), total


def _scales(delta: Delta, signs: dict[str, Packed], sums: dict[str, float], alpha: float | None, scope: str) -> dict[str, float]:
    groups = [[n] for n in signs] if scope == "tensor" else [list(signs)]
    found: dict[str, float] = {}
    for names in groups:
        count = sum(signs[n].count for n in names)
        scale = sum(sums[n] for n in names) / max(count, 1) if alpha is None else alpha * _std(delta, names)
        found |= dict.fromkeys(names, scale)
    return found


def _std(delta: Delta, names: Sequence[str]) -> float:
    """The standard deviation of all entries of the named tensors together."""
    count, total, squares = 0, 0.0, 0.0
    for name in names:
        for _, values in slices(delta[name]):
            count += values.numel()
            total += float(values.sum(dtype=torch.float64))
            squares += float(values.double().square().sum())
    mean = total / max(count, 1)
    return math.sqrt(max(squares / max(count, 1) - mean * mean, 0.0))
