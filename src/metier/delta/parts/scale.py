"""Scale: multiply changes by one factor, by a factor for each tensor, or by a factor that grows with depth (LiNeS)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from metier import check
from metier.delta.delta import Delta
from metier.delta.transform import At, Transform, elementwise
from metier.errors import KeyMismatch

DEPTH = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


def scale(factor: float) -> Transform:
    """Every change times `factor`."""
    check.number("scale", factor)

    def part(_: None, at: At, values: Any) -> Any:
        if factor != 1:
            values *= factor
        return values

    return elementwise(lambda _: None, part, local=True, plain=True, factor=factor)


def scale_by(factors: Mapping[str, float] | Callable[[str], float]) -> Transform:
    """Each tensor's change times its factor. Raises KeyMismatch for a tensor that a mapping does not name."""

    def part(_: None, at: At, values: Any) -> Any:
        if not callable(factors) and at.name not in factors:
            raise KeyMismatch(f"scale_by: no factor for '{at.name}'.")
        values *= factors(at.name) if callable(factors) else factors[at.name]
        return values

    return elementwise(lambda _: None, part, local=True, plain=True)


def by_depth(low: float, high: float, *, elsewhere: float | None = None) -> Transform:
    """Factors from `low` in the first layer to `high` in the last, linear between; `elsewhere` for tensors of no layer (None: `low`)."""
    check.number("by_depth: low", low)
    check.number("by_depth: high", high)

    def prepare(delta: Delta) -> dict[str, float]:
        depths = {n: d for n in delta if (d := depth_of(n)) is not None}
        last = max(depths.values(), default=0) or 1
        return {n: low + (high - low) * depths[n] / last if n in depths else (low if elsewhere is None else elsewhere) for n in delta}

    def part(factors: dict[str, float], at: At, values: Any) -> Any:
        values *= factors[at.name]
        return values

    return elementwise(prepare, part, plain=True)


def depth_of(name: str) -> int | None:
    """The number of the layer a tensor belongs to; None where it belongs to none."""
    found = DEPTH.search(name)
    return int(found[1]) if found else None


def at_depth(name: str, layer: int) -> str:
    """The same tensor of another layer; one that belongs to none as it is."""
    found = DEPTH.search(name)
    return name[: found.start(1)] + str(layer) + name[found.end(1) :] if found else name
