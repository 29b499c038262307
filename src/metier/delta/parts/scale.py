"""Scale: multiply changes by one factor, by a factor for each tensor, or by a factor that grows with depth (LiNeS)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from metier import check
from metier.delta.delta import Delta
from metier.delta.transform import At, Transform, elementwise
from metier.errors import KeyMismatch

DEPTH = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")


def scale(factor: float) -> Transform:
    """Every change times `factor`."""
    check.number("scale", factor)
    return elementwise(lambda _: None, lambda _, at, values: values if factor == 1 else values.mul_(factor), local=True)


def scale_by(factors: Mapping[str, float] | Callable[[str], float]) -> Transform:
    """Each tensor's change times its factor. Raises KeyMismatch for a tensor that a mapping does not name."""

    def part(_: None, at: At, values: Tensor) -> Tensor:
        if not callable(factors) and at.name not in factors:
            raise KeyMismatch(f"scale_by: no factor for '{at.name}'.")
        return values.mul_(factors(at.name) if callable(factors) else factors[at.name])

    return elementwise(lambda _: None, part, local=True)


def by_depth(low: float, high: float, *, elsewhere: float | None = None) -> Transform:
    """Factors from `low` in the first layer to `high` in the last, linear between; `elsewhere` for tensors of no layer (None: `low`)."""
    check.number("by_depth: low", low)
    check.number("by_depth: high", high)

    def prepare(delta: Delta) -> dict[str, float]:
        depths = {n: d for n in delta if (d := depth_of(n)) is not None}
        last = max(depths.values(), default=0) or 1
        return {n: low + (high - low) * depths[n] / last if n in depths else (low if elsewhere is None else elsewhere) for n in delta}

    return elementwise(prepare, lambda factors, at, values: values.mul_(factors[at.name]))


def depth_of(name: str) -> int | None:
    """The number of the layer a tensor belongs to; None where it belongs to none."""
    found = DEPTH.search(name)
    return int(found[1]) if found else None
