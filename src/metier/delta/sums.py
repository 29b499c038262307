"""Sums: combinations of stored tensors that compiled loops form at once, from the bits in the files to rounded bits.

Pieces of a slice stay in a core's nearest cache while they are formed, trimmed or thinned, combined, added to the base and rounded.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.delta.chance import Draws
from metier.delta.compiled import needed
from metier.delta.native import CHUNK as CHUNK
from metier.delta.native import address, votes

_F, _N, _P = ctypes.c_float, ctypes.c_int64, ctypes.c_void_p


class Step(NamedTuple):
    """What the loops do to a slice of a change first: keep a band of magnitudes (see `select.Cut`), or what is drawn, times a factor,
    or what has a divisor, divided by it; then cut what is left at `limit`, of either sign.

    low, high: (value, last index of those equal to it that count as above), of the slice
    draws, below: the draws of its entries, and what those that are kept are below
    """

    low: tuple[float, int] = (0.0, -1)
    high: tuple[float, int] = (math.inf, -1)
    draws: Draws | None = None
    below: int = 0
    factor: float = 1.0
    divisors: NDArray[np.float32] | None = None
    limit: float = math.inf


class Sum(NamedTuple):
    """scale (None: 1) * the sum of factor * (tuned - base) of tensors that are stored: bits of bfloat16, flat. base: None where it is zero.

    steps   (start, stop) -> what is done to each difference first; None: nothing
    elects  the sign that weighs most is elected, and those that agree are averaged, instead of a sum; see `parts.elect`
    whole   the base is added to it
    """

    base: NDArray[np.uint16] | None
    tuned: tuple[NDArray[np.uint16], ...]
    factors: tuple[float, ...] = (1.0,)
    scale: float | None = None
    steps: tuple[Callable[[int, int], Step] | None, ...] = ()
    elects: bool = False
    whole: bool = False

    @property
    def weights(self) -> bool:
        """Whether it stands for weights, not for a change."""
        return self.whole or self.base is None

    @property
    def single(self) -> bool:
        """Whether it is one difference, as it is stored."""
        return self.factors == (1.0,) and self.scale is None and not (self.steps or self.elects or self.whole)

    def times(self, factor: float) -> Sum | None:
        """The sum times a factor; None where it has one already, since each product is rounded."""
        if factor == 1:
            return self
        return self._replace(scale=factor) if self.scale is None and not self.whole else None


def same(a: NDArray[np.uint16] | None, b: NDArray[np.uint16] | None) -> bool:
    """Whether two stored tensors are the same one."""
    return a is b if a is None or b is None else address(a) == address(b)


def alike(terms: Sequence[Sum | None]) -> list[Sum] | None:
    """The sums, where each is one stored tensor, perhaps after a step, and all have one base."""
    found = [t for t in terms if t is not None and t._replace(steps=()).single]
    return found if len(found) == len(terms) and all(same(t.base, found[0].base) for t in found) else None


def summed(terms: Sum, start: int, stop: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """out = the entries [start, stop) of a sum of stored tensors."""
    needed().summed(*_terms(terms, start, stop), address(out), stop - start)
    return out


def merged(terms: Sum, start: int, stop: int, out: NDArray[np.uint16], room: NDArray[np.float32]) -> bool:
    """out = base + the entries [start, stop) of a sum, as `added`, or `rounded` where there is no base: whether it is finite.

    room: of CHUNK for each tensor.
    """
    steps = [Step() if s is None else s(start, stop) for s in terms.steps]
    loop = (_steps(steps, stop - start), terms.elects, *votes(terms.factors))
    return not needed().merged(*_terms(terms, start, stop), *loop, address(room), address(out), stop - start)


class _Step(ctypes.Structure):
    _fields_ = (
        ("drops", _N), ("at", _N), ("low_last", _N), ("high_last", _N), ("key", ctypes.c_uint64 * 3), ("divisors", _P),
        ("below", ctypes.c_uint32), ("low", _F), ("high", _F), ("factor", _F), ("limit", _F),
    )  # fmt: skip


def _steps(steps: Sequence[Step], n: int) -> Any:
    if not steps:
        return None
    if wrong := [len(s.divisors) for s in steps if s.divisors is not None and len(s.divisors) != n]:
        raise IndexError(f"{n} entries, divisors for {wrong}.")
    return (_Step * len(steps))(*map(_step, steps))


def _step(step: Step) -> _Step:
    draws = step.draws or Draws((0, 0, 0), 0)
    return _Step(
        step.draws is not None, draws.start, step.low[1], step.high[1], draws.key, None if step.divisors is None else address(step.divisors),
        step.below, step.low[0], step.high[0], step.factor, step.limit,
    )  # fmt: skip


def _terms(terms: Sum, start: int, stop: int) -> tuple[Any, ...]:
    n, stored = len(terms.tuned), [t for t in (terms.base, *terms.tuned) if t is not None]
    if start < 0 or any(len(t) < stop for t in stored):
        raise IndexError(f"[{start}, {stop}) of {[len(t) for t in stored]} entries.")
    base = None if terms.base is None else address(terms.base) + 2 * start
    return (
        base,
        (_P * n)(*(address(t) + 2 * start for t in terms.tuned)),
        (_F * n)(*terms.factors),
        n,
        1.0 if terms.scale is None else terms.scale,
    )
