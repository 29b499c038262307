"""Exact selection: which entries are among the k largest by magnitude, ties to the lowest index, in one or two passes and no sort.

A sample brackets the k-th largest magnitude; one pass counts what lies above the bracket and collects what lies inside it (few
entries, or one value that many entries share). Where the bracket fails or too much lies inside, two passes of a histogram of the
bit patterns find the same value in bounded memory. The sample decides how long it takes, never what comes out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metier.delta.entry import SLICE, Entry, opened
from metier.errors import UserError

SAMPLE = 1 << 16  # entries in a sample, at most; a 64th of them all in smaller tensors
RUN = 1 << 10  # of them neighbours
DIRECT = 1 << 16  # tensors up to this size are selected from as a whole
HELD = 1 << 21  # entries inside the bracket that may be collected
SIGMAS = 3.5  # half-width of the bracket, in standard deviations of the sample's quantile
LOW = 15  # low bits of a magnitude's 31 in the second pass of the histogram


class Cut(NamedTuple):
    """Kept: |x| > value, and |x| == value up to and including flat index `last`."""

    value: float
    last: int

    def keep(self, start: int, values: Tensor) -> Tensor:
        """The slice with all else set to zero, in place. values: (n,) float32, beginning at flat index `start`."""
        ties = min(max(self.last + 1 - start, 0), len(values))
        if ties:
            _shrink(values[:ties], float(np.nextafter(np.float32(self.value), np.float32(-1))))
        if ties < len(values):
            _shrink(values[ties:], self.value)
        return values


ALL, NONE = Cut(0.0, 1 << 62), Cut(math.inf, -1)


def count_of(density: float, n: int) -> int:
    """How many of n entries a density keeps: round(density * n), halves to even."""
    return round(density * n)


def cuts(entries: Mapping[str, Entry], count: int) -> dict[str, Cut]:
    """For each tensor its cut, so that over all of them exactly the `count` largest magnitudes are kept; ties in the order given."""
    sizes = {name: entry.shape.numel() for name, entry in entries.items()}
    if count >= sum(sizes.values()):
        return dict.fromkeys(sizes, ALL)
    if count <= 0:
        return dict.fromkeys(sizes, NONE)
    ready = {name: opened(entry) for name, entry in entries.items()}
    blocks = [(name, start) for name, n in sizes.items() for start in range(0, n, SLICE)]
    read = _reader(ready, sizes)
    value, kept, ties = _threshold(blocks, read, ready, sizes, count)
    return _spread(blocks, read, sizes, value, kept, ties)


Block = tuple[str, int]
Read = Callable[[Block], Tensor]


def _reader(entries: Mapping[str, Entry], sizes: Mapping[str, int]) -> Read:
    buffer = torch.empty(SLICE)

    def read(block: Block) -> Tensor:
        name, start = block
        stop = min(start + SLICE, sizes[name])
        return entries[name].part(start, stop, buffer[: stop - start]).abs_()

    return read


def _threshold(
    blocks: Sequence[Block], read: Read, entries: Mapping[str, Entry], sizes: Mapping[str, int], count: int
) -> tuple[float, int, list[int] | None]:
    """(the count-th largest magnitude, how many of its ties are kept, ties in each block: [] if all are kept, None if not known)."""
    total = sum(sizes.values())
    if total > DIRECT:
        low, high = _bracket(_sample(entries, sizes, total), count / total)
        if found := _within(blocks, read, low, high, count):
            return found
    return _histogram(blocks, read, count) if total > DIRECT else _direct(blocks, read, count)


def _direct(blocks: Sequence[Block], read: Read, count: int) -> tuple[float, int, list[int] | None]:
    parts = [_numbers(b, read(b)).copy() for b in blocks]
    return _ranked(parts, count)


def _ranked(parts: list[NDArray[np.float32]], rank: int) -> tuple[float, int, list[int] | None]:
    """(the rank-th largest of all, how many of its ties are within the rank, ties in each part, none listed where all are within)."""
    values = np.sort(np.concatenate(parts))  # vectorised, where a partition is slowed down by ties
    value = values[-rank]
    first, last = np.searchsorted(values, value, "left"), np.searchsorted(values, value, "right")
    kept = rank - (len(values) - int(last))
    ties = [int(np.count_nonzero(p == value)) for p in parts] if kept < last - first else []
    return float(value), kept, ties


def _sample(entries: Mapping[str, Entry], sizes: Mapping[str, int], total: int) -> NDArray[np.float32]:
    """Runs of magnitudes at even distances over all tensors."""
    step = max(total // (SAMPLE // RUN), 64 * RUN)
    found, before = [], 0
    for name, n in sizes.items():
        first = -before % step
        found += [entries[name].part(s, min(s + RUN, n)).abs_() for s in range(first, n, step)]
        before += n
    return torch.cat(found).numpy()


def _bracket(sample: NDArray[np.float32], density: float) -> tuple[float, float]:
    sample, n = np.sort(sample), len(sample)
    middle, spread = (1 - density) * n, SIGMAS * math.sqrt(density * (1 - density) * n) + 1
    low, high = int(middle - spread), math.ceil(middle + spread)
    return float(sample[low]) if low >= 0 else 0.0, float(sample[high]) if high < n else math.inf


def _within(blocks: Sequence[Block], read: Read, low: float, high: float, count: int) -> tuple[float, int, list[int] | None] | None:
    """One pass with a bracket [low, high]; None where the value is not inside or too many entries are."""
    above, inside, parts = 0, [], []
    least, most = np.empty(SLICE, np.bool_), np.empty(SLICE, np.bool_)
    for block in blocks:
        numbers = _numbers(block, read(block))
        here, over = least[: len(numbers)], most[: len(numbers)]
        np.greater_equal(numbers, np.float32(low), out=here)
        np.greater(numbers, np.float32(high), out=over)
        more = int(np.count_nonzero(over))
        above += more
        inside.append(int(np.count_nonzero(here)) - more)
        if low < high:
            if sum(inside) > HELD:
                return None
            parts.append(numbers[np.logical_xor(here, over, out=over)])
    rank = count - above
    if not 0 < rank <= sum(inside):
        return None
    return _ranked(parts, rank) if low < high else (low, rank, inside)


def _histogram(blocks: Sequence[Block], read: Read, count: int) -> tuple[float, int, list[int] | None]:
    """Two passes over the bits of the magnitudes, whose order is that of the numbers: the high ones, then the low ones of one bin."""
    bins = np.zeros(1 << (31 - LOW), np.int64)
    for block in blocks:
        bins += np.bincount(_numbers(block, read(block)).view(np.int32) >> LOW, minlength=len(bins))
    top, count = _bin_of(bins, count)
    bins = np.zeros(1 << LOW, np.int64)
    for block in blocks:
        bits = read(block).numpy().view(np.int32)
        bins += np.bincount(bits[bits >> LOW == top] & ((1 << LOW) - 1), minlength=len(bins))
    low, count = _bin_of(bins, count)
    value = float(np.array([top << LOW | low], np.int32).view(np.float32)[0])
    return value, count, [] if count == int(bins[low]) else None


def _bin_of(bins: NDArray[np.int64], count: int) -> tuple[int, int]:
    """(the bin that holds the count-th largest, its rank among those of the bin)."""
    above = np.cumsum(bins[::-1])
    place = int(np.searchsorted(above, count))
    return len(bins) - 1 - place, count - (int(above[place - 1]) if place else 0)


def _spread(
    blocks: Sequence[Block], read: Read, sizes: Mapping[str, int], value: float, kept: int, ties: list[int] | None
) -> dict[str, Cut]:
    """The cut of each tensor: the first `kept` ties are kept, in the order of tensors and indices."""
    if value == 0 or ties == [] or (ties and sum(ties) == kept):
        return {name: Cut(value, n - 1) for name, n in sizes.items()}
    found = {name: Cut(value, -1) for name in sizes}
    for i, (name, start) in enumerate(blocks):
        if kept <= 0:
            break
        here = ties[i] if ties else -1
        if 0 <= here < kept:
            kept, found[name] = kept - here, Cut(value, min(start + SLICE, sizes[name]) - 1)
            continue
        places = np.flatnonzero(read((name, start)).numpy() == np.float32(value))
        last = start + (int(places[kept - 1]) if len(places) >= kept else SLICE - 1)
        kept, found[name] = kept - len(places), Cut(value, min(last, sizes[name] - 1))
    return found


def _shrink(values: Tensor, limit: float) -> None:
    """Zero where |x| <= limit, in place."""
    if limit >= 0:
        torch.hardshrink(values, limit, out=values)


def _numbers(block: Block, values: Tensor) -> NDArray[np.float32]:
    """The values as numpy's. Raises UserError where one is not a number."""
    if math.isnan(float(values.sum())):
        raise UserError(f"delta: '{block[0]}' holds values that are not numbers. A model is damaged or its training diverged.")
    return values.numpy()
