"""Bracket: where a sample says that the k-th largest magnitude lies, and what is counted and collected of the blocks that are looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from metier.delta import native
from metier.delta.scratch import array
from metier.errors import NotNumbers

HELD = 1 << 21  # entries inside the bracket that may be collected
HEAVY = 0.01  # share of a sample from which on it is worth counting an end of the bracket apart
SIGMAS = 3.5  # half-width of the bracket, in standard deviations of the sample's quantile

Block = tuple[str, int, int]  # a tensor's name, its flat entries from here, to there
Found = tuple[float, int, list[int] | None]  # the k-th largest, how many of its ties are kept, ties by block: [] all kept, None not known


class Bracket:
    """Where the k-th largest should be: [low, high] by a sorted sample. `look` at every block, then `found`."""

    def __init__(self, sample: NDArray[np.float32], runs: Sequence[NDArray[np.float32]], density: float) -> None:
        n = len(sample)
        middle = min(round((1 - density) * n), n - 1)
        shares = np.concatenate([(run >= sample[middle]).mean(1) for run in runs])
        error = max(math.sqrt(density * (1 - density) / n), float(np.std(shares)) / math.sqrt(len(shares)))  # neighbours may be alike
        low, high = int(middle - SIGMAS * error * n - 1), math.ceil(middle + SIGMAS * error * n + 1)
        self.low = sample[low] if low >= 0 else np.float32(0)
        self.high = sample[high] if high < n else np.float32(math.inf)
        equal = [np.searchsorted(sample, v, "right") - np.searchsorted(sample, v, "left") > HEAVY * n for v in (self.low, self.high)]
        self.low_apart, self.high_apart = bool(equal[0]), bool(equal[1])  # whether values equal to them are counted, not held
        self.above, self.held = 0, 0
        self.highs: list[int] = []
        self.lows: list[int] = []
        self.parts: list[NDArray[np.float32]] = []

    @property
    def ends(self) -> native.Ends:
        """The bracket, as the loops take it."""
        return native.Ends(float(self.low), float(self.high), self.low_apart, self.high_apart)

    def add(self, block: Block, seen: native.Counts) -> None:
        """Count one block."""
        if seen.none:
            refuse(block)
        self.above += seen.above
        if self.high_apart or self.low == self.high:
            self.highs.append(seen.highs)
        if self.low == self.high:
            return
        if self.low_apart:
            self.lows.append(seen.lows)
        if self.held <= HELD:
            self.parts.append(seen.held)
            self.held += len(seen.held)

    def look(self, numbers: NDArray[np.float32]) -> native.Counts:
        """As `native.look`. numbers: magnitudes."""
        over, inside = (array(name, len(numbers), np.bool_) for name in ("over", "within"))
        above = int(np.count_nonzero(np.greater(numbers, self.high, out=over)))
        highs = lows = 0
        if self.high_apart or self.low == self.high:
            highs = int(np.count_nonzero(np.greater_equal(numbers, self.high, out=over))) - above
        within = int(np.count_nonzero(np.greater_equal(numbers, self.low, out=inside)))
        if self.low_apart:
            lows = within - int(np.count_nonzero(np.greater(numbers, self.low, out=inside)))
        return native.Counts(0, above, highs, lows, numbers[np.flatnonzero(np.logical_xor(inside, over, out=over))])

    def found(self, count: int) -> Found | None:
        """The count-th largest; None where it is not inside, or too much is."""
        rank, highs, lows = count - self.above, sum(self.highs), sum(self.lows)
        if 0 < rank <= highs:
            return float(self.high), rank, self.highs
        rank -= highs
        if rank <= 0 or self.held > HELD or rank > self.held + lows:
            return None
        return ranked(self.parts, rank) if rank <= self.held else (float(self.low), rank - self.held, self.lows)


def ranked(parts: list[NDArray[np.float32]], rank: int) -> Found:
    """The rank-th largest of all."""
    if (found := native.ranked(parts, rank)) is None:
        values = np.concatenate(parts)
        place = len(values) - rank
        values.partition(place)
        value = float(values[place])
        found = value, rank - int(np.count_nonzero(values[place:] > value)), int(np.count_nonzero(values == value))
    value, kept, equal = found
    return value, kept, [int(np.count_nonzero(p == np.float32(value))) for p in parts] if kept < equal else []


def refuse(block: Block) -> NoReturn:
    """Raises NotNumbers: a block holds what is not a number."""
    raise NotNumbers(f"delta: '{block[0]}' holds values that are not numbers. A model is damaged or its training diverged.", block[0])
