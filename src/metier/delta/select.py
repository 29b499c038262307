"""Exact selection: which entries are among the k largest by magnitude, ties to the lowest index, in one or two passes and no sort.

A sample brackets the k-th largest magnitude; one pass counts what lies above the bracket and collects what lies inside it. Where many
entries share a value, as changes of bfloat16 weights do, the ends of the bracket are such values and are counted. Where the bracket
fails or too much lies inside, two passes of a histogram of the bit patterns find the same value in bounded memory. The sample decides
how long it takes, never what comes out. Several k are found in the same pass.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.delta import native
from metier.delta.bracket import Block, Bracket, Found, ranked, refuse
from metier.delta.entry import SLICE, Entry, is_plain, opened, sum_of
from metier.delta.kinds import Between
from metier.delta.scratch import array, scratch
from metier.lazy import torch

SAMPLE = 1 << 17  # entries in a sample, at most; a 64th of them all in smaller tensors
RUN = 1 << 10  # of them neighbours
SHORT = 1 << 4  # neighbours, where more runs cost little: as entries of a row are alike, many short ones say more
LOOKED = 1 << 20  # entries that compiled loops look at in one call
DIRECT = 1 << 16  # tensors up to this size are selected from as a whole
LOW = 15  # low bits of a magnitude's 31 in the second pass of the histogram


class Cut(NamedTuple):
    """Kept: |x| > value, and |x| == value up to and including flat index `last`."""

    value: float
    last: int

    def after(self, start: int) -> Cut:
        """The cut of what begins at flat index `start`."""
        return Cut(self.value, self.last - start)

    def keep(self, start: int, values: Any, out: Any = None) -> Any:
        """The slice with all else set to zero, in place or in `out`. values: (n,) float32, beginning at flat index `start`."""
        out = values if out is None else out
        ties = min(max(self.last + 1 - start, 0), len(values))
        if ties:
            _shrink(values[:ties], float(np.nextafter(np.float32(self.value), np.float32(-1))), out[:ties])
        if ties < len(values):
            _shrink(values[ties:], self.value, out[ties:])
        return out


ALL, NONE = Cut(0.0, 1 << 62), Cut(math.inf, -1)


def count_of(density: float, n: int) -> int:
    """How many of n entries a density keeps: round(density * n), halves to even."""
    return round(density * n)


def cuts(entries: Mapping[str, Entry], count: int) -> dict[str, Cut]:
    """For each tensor its cut, so that over all of them exactly the `count` largest magnitudes are kept; ties in the order given."""
    return cuts_at(entries, [count])[0]


def cuts_at(entries: Mapping[str, Entry], counts: Sequence[int]) -> list[dict[str, Cut]]:
    """The cuts for several counts, in one pass where they can be."""
    sizes = {name: entry.shape.numel() for name, entry in entries.items()}
    total, simple = sum(sizes.values()), {}
    for count in counts:
        if not 0 < count < total:
            simple[count] = dict.fromkeys(sizes, ALL if count > 0 or total == 0 else NONE)
    if left := [c for c in dict.fromkeys(counts) if c not in simple]:
        ready, blocks = _Opened(entries), _blocks(entries)
        read = _reader(ready)
        glance = _glance(ready, read)
        for count, found in zip(left, _thresholds(blocks, read, ready, sizes, left), strict=True):
            simple[count] = _spread(blocks, glance, sizes, *found)
    return [simple[count] for count in counts]


def largest(entry: Entry, counts: Sequence[int]) -> list[float]:
    """The k-th largest magnitude of a tensor for every k in `counts`, each at least 1 and at most the number of entries."""
    ready, sizes = _Opened({"": entry}), {"": entry.shape.numel()}
    return [value for value, _, _ in _thresholds(_blocks(ready.entries), _reader(ready), ready, sizes, counts)]


def _blocks(entries: Mapping[str, Entry]) -> list[Block]:
    found = []
    for name, entry in entries.items():
        n, step = entry.shape.numel(), LOOKED if is_plain(entry) else SLICE
        found += [(name, start, min(start + step, n)) for start in range(0, n, step)]
    return found


class _Opened:
    """Entries, opened one at a time: they are read in their order, and an open one may take memory."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries, self.last = entries, None  # type: tuple[Mapping[str, Entry], tuple[str, Entry] | None]

    def __getitem__(self, name: str) -> Entry:
        if self.last is None or self.last[0] != name:
            self.last = None  # let go of the one before the next is opened
            self.last = name, opened(self.entries[name])
        return self.last[1]


Read = Callable[[Block], Any]


def _reader(entries: _Opened) -> Read:
    def read(block: Block) -> Any:
        name, start, stop = block
        room: Any = array if is_plain(entry := entries[name]) else scratch
        return entry.part(start, stop, room("values", stop - start))

    return read


def _glance(entries: _Opened, read: Read) -> Read:
    """As `read`, for those who only look at magnitudes: a difference of stored tensors is formed while it is looked at."""

    @functools.lru_cache(1)
    def pair(name: str) -> native.Pair | None:
        terms = sum_of(entries[name])
        return None if terms is None or not terms.single or terms.base is None else native.Pair(terms.base, terms.tuned[0])

    def glance(block: Block) -> Any:
        name, start, stop = block
        if (whole := pair(name)) is None:
            return read(block)
        return native.Pair(whole.base[start:stop], whole.tuned[start:stop])

    return glance


def _thresholds(blocks: Sequence[Block], read: Read, entries: _Opened, sizes: Mapping[str, int], counts: Sequence[int]) -> list[Found]:
    total = sum(sizes.values())
    if total <= DIRECT:
        return [_direct(blocks, read, count) for count in counts]
    runs = _sample(entries, sizes, total)
    sample = np.sort(np.concatenate([r.reshape(-1) for r in runs]))
    brackets = [Bracket(sample, runs, count / total) for count in counts]
    glance = _glance(entries, read)
    for block in blocks:
        values = glance(block)
        n = native.length(values)
        seen = native.look(values, [b.ends for b in brackets], array("inside", len(brackets) * n).reshape(-1, n))
        if seen is None:
            numbers = _numbers(block, values)
            seen = [bracket.look(numbers) for bracket in brackets]
        for bracket, of_it in zip(brackets, seen, strict=True):
            bracket.add(block, of_it)
    return [b.found(count) or _histogram(blocks, read, count) for b, count in zip(brackets, counts, strict=True)]


def _direct(blocks: Sequence[Block], read: Read, count: int) -> Found:
    return ranked([_numbers(b, read(b)).copy() for b in blocks], count)


def _sample(entries: _Opened, sizes: Mapping[str, int], total: int) -> list[NDArray[np.float32]]:
    """Runs of magnitudes from all over the tensors, (runs, length) each: short ones where they can be read at once."""
    step = max(total // (SAMPLE // RUN), 64 * RUN)
    found, before = [], 0
    for name, n in sizes.items():
        entry = entries[name]
        short = entry.sampled(step * SHORT // RUN, SHORT) if isinstance(entry, Between) else None
        found += [_run(entry, s, min(s + RUN, n)) for s in range(-before % step, n, step)] if short is None else [short]
        before += n
    return found


def _run(entry: Entry, start: int, stop: int) -> NDArray[np.float32]:
    """Magnitudes of a slice, (1, n)."""
    out: Any = np.empty(stop - start, np.float32) if is_plain(entry) else None
    return np.abs(np.asarray(entry.part(start, stop, out)))[None]


def _histogram(blocks: Sequence[Block], read: Read, count: int) -> Found:
    """Two passes over the bits of the magnitudes, whose order is that of the numbers: the high ones, then the low ones of one bin."""
    bins = np.zeros(1 << (31 - LOW), np.int64)
    for block in blocks:
        bins += np.bincount(_numbers(block, read(block)).view(np.int32) >> LOW, minlength=len(bins))
    top, count = _bin_of(bins, count)
    bins = np.zeros(1 << LOW, np.int64)
    for block in blocks:
        bits = _numbers(block, read(block)).view(np.int32)
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
    blocks: Sequence[Block], glance: Read, sizes: Mapping[str, int], value: float, kept: int, ties: list[int] | None
) -> dict[str, Cut]:
    """The cut of each tensor: the first `kept` ties are kept, in the order of tensors and indices."""
    if value == 0 or ties == [] or (ties and sum(ties) == kept):
        return {name: Cut(value, n - 1) for name, n in sizes.items()}
    found = {name: Cut(value, -1) for name in sizes}
    for i, block in enumerate(blocks):
        if kept <= 0:
            break
        name, start, stop = block
        here = ties[i] if ties else -1
        if 0 <= here < kept:
            kept, found[name] = kept - here, Cut(value, stop - 1)
            continue
        place, kept = native.tied(values := glance(block), value, kept) or _tied(_numbers(block, values), value, kept)
        found[name] = Cut(value, start + place)
    return found


def _tied(numbers: NDArray[np.float32], value: float, kept: int) -> tuple[int, int]:
    """As `native.tied`."""
    places = np.flatnonzero(numbers == np.float32(value))
    return int(places[kept - 1]) if len(places) >= kept else len(numbers) - 1, max(0, kept - len(places))


def _shrink(values: Any, limit: float, out: Any) -> None:
    """Zero where |x| <= limit."""
    if limit >= 0 and not native.shrink(values, limit, out):
        torch.hardshrink(values, limit, out=out)
    elif limit < 0 and out is not values:
        out[:] = values


def _numbers(block: Block, values: Any) -> NDArray[np.float32]:
    """The magnitudes of values, in their place. Raises UserError where one is not a number."""
    found: NDArray[np.float32] = values if isinstance(values, np.ndarray) else values.numpy()
    if math.isnan(float(np.abs(found, out=found).sum())):
        refuse(block)
    return found
