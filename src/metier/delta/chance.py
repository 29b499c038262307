"""Chance: random bits for the entries of tensors, and the loops that drop entries by them; see `native`.

Which bits an entry has depends on the key and on its place alone: no global state, and the same however a tensor is cut. For each CHUNK
entries there are eight generators SFC64 (Doty-Humphrey, PractRand), which begin at the key's three numbers, the number of the chunk and of
the generator added to the last, with the counter 1, and leave out twelve numbers. An entry takes half a number: 64 bits are two entries,
the lower half first, and the generators take turns.
"""

from __future__ import annotations

import ctypes
import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.delta.compiled import loops
from metier.delta.native import CHUNK, SINGLE, Flat, address, fitting

TOGETHER, LEFT_OUT = 8, 12  # generators of a chunk; numbers that each leaves out
_KEY = ctypes.c_uint64 * 3


class Draws(NamedTuple):
    """32 uniform random bits for each flat entry of a tensor, from entry `start` on."""

    key: tuple[int, int, int]
    start: int

    @classmethod
    def of(cls, key: str, start: int) -> Draws:
        """Those that a text names."""
        said = hashlib.sha256(key.encode()).digest()
        return cls(tuple(int.from_bytes(said[i : i + 8], "little") for i in (0, 8, 16)), start)  # type: ignore[arg-type]

    def into(self, out: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """out = the draws of as many entries."""
        if (run := loops()) is None:
            first = self.start // CHUNK
            drawn = _drawn(self.key, first, -(-(self.start + len(out)) // CHUNK))
            out[:] = drawn[self.start - first * CHUNK :][: len(out)]
        else:
            run.draw(_KEY(*self.key), self.start, address(out), len(out))
        return out


def _drawn(key: tuple[int, int, int], first: int, stop: int) -> NDArray[np.uint32]:
    """The draws of the chunks [first, stop)."""
    shape = (stop - first, TOGETHER)
    a, b = (np.full(shape, k, np.uint64) for k in key[:2])
    c = np.uint64(key[2]) + np.arange(first * TOGETHER, stop * TOGETHER, dtype=np.uint64).reshape(shape)
    each = CHUNK // (2 * TOGETHER)
    numbers = np.empty((stop - first, each, TOGETHER), np.uint64)
    for i in range(-LEFT_OUT, each):
        number = a + b + np.uint64(LEFT_OUT + i + 1)
        a, b, c = b ^ b >> np.uint64(11), c + (c << np.uint64(3)), (c << np.uint64(24) | c >> np.uint64(40)) + number
        if i >= 0:
            numbers[:, i] = number
    return numbers.astype("<u8", copy=False).view("<u4").reshape(-1)


def drop(values: Flat, draws: Draws, below: int, factor: float) -> bool:
    """Zero the values whose draw is not below `below`, multiply the others. values: (n,) float32."""
    if (run := fitting((values, SINGLE))) is None:
        return False
    run.drop(address(values), _KEY(*draws.key), draws.start, below, factor, len(values))
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
