"""Statistics: how sure a score or a difference is, over examples and over seeds.

Seeds and examples are crossed (every seed answers the same examples), so both are resampled, each once per draw: the
pigeonhole bootstrap (Owen 2007, Ann. Appl. Stat. 1:386). Resampling examples anew within each seed would take the shared
examples for independent ones and give intervals that are too narrow. Intervals are percentile intervals; every
function is deterministic for its `seed`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri

from metier.evaluate.metrics import Total
from metier.evaluate.record import Record, align

Floats = NDArray[np.float64]
DRAWS = 2000
FLIPS = 10_000
SMALL = 50  # below this many examples a 0/1 mean gets a Wilson interval
EXACT = 12  # up to this many non-zero differences every sign is tried
_BLOCK = 1_000_000  # resampling counts held at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval; `n` examples, `seeds` seeds, and `how` the interval was made."""

    value: float
    low: float
    high: float
    n: int
    seeds: int
    how: str


@dataclass(frozen=True, slots=True)
class Difference:
    """new - base on the same examples: value, interval, two-sided p and the test that gave it."""

    value: float
    low: float
    high: float
    p: float
    test: str
    n: int
    seeds: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one specialist per seed: `values` is (seeds, n), or (seeds, n, k) summable statistics for `total`."""

    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats
    total: Total | None = None

    def take(self, seeds: Sequence[int]) -> Scores:
        """These seeds only."""
        return Scores(self.ids, tuple(seeds), self.values[[self.seeds.index(s) for s in seeds]], self.total)

    def per_seed(self) -> Floats:
        """(seeds,): the score of each seed."""
        means: Floats = _metric(self, np.ones((1, len(self.ids))))[0]
        return means


def scores(by_seed: Mapping[int, Sequence[Record]], total: Total | None = None) -> Scores:
    """{seed: records of the same examples} -> Scores, examples in the first seed's order.

    `total` is used where every record carries stats. Raises ValueError for no records, or ids that do not pair up.
    """
    seeds = sorted(by_seed)
    if not seeds or not by_seed[seeds[0]]:
        raise ValueError("scores: no records.")
    first = by_seed[seeds[0]]
    rows = [[new for _, new in align(first, by_seed[seed])] for seed in seeds]
    corpus = total is not None and all(r.stats is not None for row in rows for r in row)
    values = np.array([[r.stats if corpus else r.score for r in row] for row in rows], dtype=np.float64)
    return Scores(tuple(r.example for r in first), tuple(seeds), values, total if corpus else None)


def interval(of: Scores, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Mean score over seeds with a bootstrap interval over examples, and over seeds where there are several.

    Scores that are all 0 or 1 get a Wilson interval where the bootstrap is poor (n < 50, or a mean of 0 or 1); with
    several seeds n stays the number of examples, and the interval is the wider of the two on each side.
    """
    value, n, runs = float(of.per_seed().mean()), len(of.ids), len(of.seeds)
    low, high = _percentiles(_draws(of, draws, seed), level)
    how = "bootstrap over examples" if runs == 1 else "bootstrap over examples and seeds"
    if of.total is None and bool(np.isin(of.values, (0.0, 1.0)).all()) and (n < SMALL or value in (0.0, 1.0)):
        bottom, top = wilson(value * n, n, level)
        low, high = (bottom, top) if runs == 1 else (min(low, bottom), max(high, top))
        how = "Wilson" if runs == 1 else "wider of Wilson and bootstrap over examples and seeds"
    return Interval(value, low, high, n, runs, how)


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209)."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson: successes must be between 0 and n >= 1; got {successes} of {n}.")
    z, p = float(ndtri((1 + level) / 2)), successes / n
    centre, half, scale = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)), 1 + z * z / n
    return (centre - half) / scale if successes else 0.0, (centre + half) / scale if successes < n else 1.0


def difference(base: Scores, new: Scores, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Difference:
    """new - base, paired by example; seeds that both have are paired too, else each side's seeds are resampled on their own.

    The interval is a paired bootstrap over examples and seeds. p is over examples, seeds averaged: exact McNemar where
    the differences are all -1, 0 or 1, else a sign-flip permutation. Raises ValueError where ids differ.
    """
    if base.ids != new.ids:
        raise ValueError("difference: the two sides must have the same examples in the same order; use `paired` or `align` first.")
    common = [s for s in base.seeds if s in new.seeds]
    if common:
        base, new = base.take(common), new.take(common)
    drawn = _draws(new, draws, seed) - _draws(base, draws, seed, stream=0 if common else 1)
    low, high = _percentiles(drawn, level)
    value = float(new.per_seed().mean() - base.per_seed().mean())
    if base.total is not None:
        p, test = _swap_test(base.values.sum(0), new.values.sum(0), base.total, seed), "permutation of corpus statistics"
    else:
        gaps = new.values.mean(0) - base.values.mean(0)
        p, test = sign_test(gaps, seed)
    return Difference(value, low, high, p, test, len(new.ids), len(new.seeds))


def paired(base: Sequence[Record], new: Sequence[Record], total: Total | None = None, **options: float) -> Difference:
    """`difference` of two lists of records, aligned by example id; the error names ids that do not pair up."""
    pairs = align(base, new)
    left, right = scores({0: [b for b, _ in pairs]}, total), scores({0: [c for _, c in pairs]}, total)
    return difference(left, right, **options)  # type: ignore[arg-type]


def sign_test(gaps: Floats, seed: int = 0) -> tuple[float, str]:
    """(p, name of the test) that paired differences (n,) centre on 0: McNemar for -1, 0, 1, else sign flips."""
    if np.isin(gaps, (-1.0, 0.0, 1.0)).all():
        return mcnemar(int((gaps > 0).sum()), int((gaps < 0).sum())), "exact McNemar"
    return sign_flip(gaps, seed), "sign-flip permutation"


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided McNemar p: twice the smaller tail of Binomial(better + worse, 1/2), at most 1 (McNemar 1947)."""
    n = better + worse
    return min(1.0, 2 * float(bdtr(min(better, worse), n, 0.5))) if n else 1.0


def sign_flip(gaps: Floats, seed: int = 0, flips: int = FLIPS) -> float:
    """Two-sided p of |mean| under random signs; every sign pattern up to 12 non-zero gaps, else (1 + hits) / (1 + flips)."""
    gaps = gaps[gaps != 0]
    m = len(gaps)
    seen = abs(gaps.sum()) * (1 - 1e-12)  # sums of the same numbers in another order differ by rounding
    if m <= EXACT:
        signs = 1 - 2.0 * ((np.arange(2**m)[:, None] >> np.arange(m)) & 1)
        return float((abs(signs @ gaps) >= seen).mean())
    rng, hits, left = np.random.default_rng([seed, 7]), 0, flips
    while left:
        rows = min(left, max(1, _BLOCK // m))
        signs = 1 - 2.0 * rng.integers(0, 2, (rows, m), dtype=np.int8)
        hits, left = hits + int((abs(signs @ gaps) >= seen).sum()), left - rows
    return (1 + hits) / (1 + flips)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979, Scand. J. Statist. 6:65)."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def _draws(of: Scores, draws: int, seed: int, stream: int = 0) -> Floats:
    """(draws,) resampled scores; examples are keyed by `seed` alone, so that two sides draw the same ones."""
    metric = np.concatenate([_metric(of, counts) for counts in _counts(len(of.ids), draws, seed)])
    runs = len(of.seeds)
    weights = np.random.default_rng([seed, 1, stream]).multinomial(runs, [1 / runs] * runs, size=draws) / runs
    drawn: Floats = (metric * weights).sum(1)
    return drawn


def _metric(of: Scores, counts: Floats) -> Floats:
    """(draws, n) counts -> (draws, seeds) scores of the resampled examples."""
    runs, n = of.values.shape[:2]
    flat = of.values.reshape(runs, n, -1)  # (seeds, n, k)
    sums = np.stack([counts @ flat[s] for s in range(runs)], axis=1)  # (draws, seeds, k)
    if of.total is None:
        means: Floats = sums[..., 0] / n
        return means
    return np.array([[of.total(stats.tolist()) for stats in row] for row in sums])


def _counts(n: int, draws: int, seed: int) -> Iterator[Floats]:
    """Blocks of (rows, n) resampling counts, each row summing to n; together `draws` rows."""
    rows = max(1, min(draws, _BLOCK // n))
    for block, start in enumerate(range(0, draws, rows)):
        yield _count_block(n, min(rows, draws - start), seed, block)


@functools.lru_cache(maxsize=16)
def _count_block(n: int, rows: int, seed: int, block: int) -> Floats:
    drawn = np.random.default_rng([seed, 2, block]).integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
    counts.flags.writeable = False
    return counts


def _percentiles(drawn: Floats, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _swap_test(base: Floats, new: Floats, total: Total, seed: int) -> float:
    """Two-sided p that a corpus score differs, by swapping the sides' (n, k) statistics per example (Noreen 1989)."""
    gap, left, right = new - base, base.sum(0), new.sum(0)
    seen = abs(total(right.tolist()) - total(left.tolist())) * (1 - 1e-12)
    rng, hits, done = np.random.default_rng([seed, 9]), 0, 0
    while done < DRAWS:
        rows = min(DRAWS - done, max(1, _BLOCK // len(gap)))
        moved = rng.integers(0, 2, (rows, len(gap))).astype(np.float64) @ gap
        hits += sum(abs(total((right - m).tolist()) - total((left + m).tolist())) >= seen for m in moved)
        done += rows
    return (1 + hits) / (1 + DRAWS)
