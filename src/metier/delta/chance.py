"""Chance: the loops that draw what is dropped, and drop it; see `native`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metier.delta.compiled import loops
from metier.delta.native import SINGLE, Flat, address, fitting


def draw(generator: np.random.SFC64, out: NDArray[np.uint32]) -> bool:
    """out = the next random bits of the generator, which stays where it is. out: (n,), n even."""
    if (run := loops()) is None:
        return False
    state = _state(generator)
    run.draw(address(state), address(out), len(out))
    return True


def draw_kept(generator: np.random.SFC64, split: int, rest: int, n: int, out: NDArray[np.uint8]) -> bool:
    """out[:n] = 1 where the next random byte is below `split`, or equal to it and 32 bits are below `rest`; else 0.

    The bits come after the bytes; the generator stays where it is. out: n, and room up to a multiple of 8.
    """
    if (run := loops()) is None:
        return False
    state = _state(generator)
    run.draw_kept(address(state), split, rest, address(out), n)
    return True


def _state(generator: np.random.SFC64) -> NDArray[np.uint64]:
    found: NDArray[np.uint64] = generator.state["state"]["state"]
    return found


def drop(values: Flat, kept: NDArray[np.uint8], factor: float) -> bool:
    """Zero the values where `kept` is 0, multiply the others. values: (n,) float32; kept: (n,), 0 or 1."""
    if (run := fitting((values, SINGLE))) is None:
        return False
    run.drop(address(values), kept.ctypes.data, factor, len(values))
    return True


def thinning(
    values: Flat, width: int, draws: NDArray[np.uint32], low: float, slope: float, rescale: bool, out: NDArray[np.float32]
) -> bool:  # fmt: skip
    """out = what `divide` divides each entry by: its probability to be kept, low + slope * its rank by magnitude in its row / (width - 1).

    values: (rows * width,) float32; draws: as many uniform 32 bits; out: 0 where an entry is not kept, else 1 unless `rescale`.
    """
    if (run := fitting((values, SINGLE), (out, SINGLE))) is None or width >= 1 << 31:
        return False
    room, keep, rows = np.empty(2 * width, np.uint64), np.empty(2 * width, np.float32), len(values) // width
    run.thinning(address(values), rows, width, draws.ctypes.data, low, slope, rescale, room.ctypes.data, keep.ctypes.data, address(out))
    return True


def divide(values: Flat, divisors: NDArray[np.float32]) -> bool:
    """Divide the values, (n,) float32; zero where the divisor is."""
    if (run := fitting((values, SINGLE), (divisors, SINGLE))) is None:
        return False
    run.divide(address(values), address(divisors), len(values))
    return True
