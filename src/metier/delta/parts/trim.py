"""Trim: keep the largest changes by magnitude, all else becomes zero. Exactly round(density * n) are kept, ties by lowest index."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from metier import check
from metier.delta.delta import Delta
from metier.delta.entry import PartOf
from metier.delta.kinds import New
from metier.delta.scratch import array, scratch
from metier.delta.select import Cut, count_of, cuts_at
from metier.delta.sums import Step
from metier.delta.transform import At, Transform, elementwise
from metier.errors import UserError

Scope = Literal["tensor", "layer", "model"]
LAYER = re.compile(r"^(?:.*\.)?(?:layers?|h|blocks?)\.\d+(?=\.)")


def trim(density: float, *, scope: Scope = "tensor") -> Transform:
    """Keep the fraction `density` of the entries of each tensor, each layer, or the whole model, the largest by magnitude."""
    check.fraction("trim: density", density)
    check.one_of("trim: scope", scope, ("tensor", "layer", "model"))

    def prepare(delta: Delta) -> dict[str, Cut]:
        return {} if density == 1 else _cut(delta, scope, density)[0]

    def part(state: dict[str, Cut], at: At, values: Any) -> Any:
        return values if density == 1 else state[at.name].keep(at.start, values)

    def step(state: dict[str, Cut], at: At, stop: int, _: PartOf) -> Step:
        return Step() if density == 1 else Step(state[at.name].after(at.start))

    return elementwise(prepare, part, local=scope == "tensor", plain=True, step=step)


def trim_outliers(density: float, gamma: float, *, scope: Scope = "tensor") -> Transform:
    """Drop the fraction `gamma` that is largest, then keep the next `density`; `gamma = 0` is `trim`.

    round(gamma * n) largest entries are dropped and the next round((density + gamma) * n) less those are kept, ties by lowest index.
    Raises UserError where density + gamma is above 1.
    """
    check.fraction("trim_outliers: density", density)
    check.number("trim_outliers: gamma", gamma, low=0, high=1)
    if density + gamma > 1 + 1e-9:
        raise UserError(f"trim_outliers: density + gamma must be at most 1; got {density} + {gamma}. Lower one of them.")
    if gamma == 0:
        return trim(density, scope=scope)

    def prepare(delta: Delta) -> list[dict[str, Cut]]:
        return _cut(delta, scope, gamma, min(density + gamma, 1.0))

    def part(state: list[dict[str, Cut]], at: At, values: Any) -> Any:
        largest, kept = state[0][at.name], state[1][at.name]
        room = array("outliers", len(values)) if isinstance(values, np.ndarray) else scratch("outliers", len(values), device=values.device)
        outliers = largest.keep(at.start, values, room)
        values = kept.keep(at.start, values)
        values -= outliers
        return values

    def step(state: list[dict[str, Cut]], at: At, stop: int, _: PartOf) -> Step:
        largest, kept = state[0][at.name], state[1][at.name]
        return Step(kept.after(at.start), largest.after(at.start))

    return elementwise(prepare, part, local=scope == "tensor", plain=True, step=step)


def layer_of(name: str) -> str:
    """The layer a tensor belongs to ('model.layers.3'); its own name where it belongs to none."""
    found = LAYER.match(name)
    return found[0] if found else name


def _cut(delta: Delta, scope: Scope, *densities: float) -> list[dict[str, Cut]]:
    """The cuts of each density, name -> cut."""
    found: list[dict[str, Cut]] = [{} for _ in densities]
    for names in _groups(delta, scope):
        entries = {n: e for n in names if not isinstance(e := delta.entries[n], New)}
        total = sum(e.shape.numel() for e in entries.values())
        for known, more in zip(found, cuts_at(entries, [count_of(d, total) for d in densities]), strict=True):
            known |= more
    return found


def _groups(names: Iterable[str], scope: Scope) -> Iterable[list[str]]:
    """Names that share a threshold, sorted: which tie is kept must not hang on the order of a dictionary."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault({"tensor": name, "layer": layer_of(name), "model": ""}[scope], []).append(name)
    return groups.values()
