"""Span: combinations whose factors follow from the inner products of the experts' tensors (spheres, angles), one factor for each expert."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier.delta import native
from metier.delta.entry import SLICE, Entry, is_plain, opened, sum_of
from metier.delta.native import CHUNK
from metier.delta.parts.total import Total
from metier.delta.scratch import stacked
from metier.delta.sums import alike

ADDENDS = 4  # as in kernels.c
Solve = Callable[[NDArray[np.float64], tuple[float, ...]], Sequence[float]]


def spanned(solve: Solve) -> tuple[Callable[[str, Sequence[Entry]], Any], Total]:
    """(plan, combine) of a merge. solve: (inner products (k, k), coefs) -> the factor of each expert's tensor."""

    def plan(name: str, entries: Sequence[Entry]) -> Callable[[tuple[float, ...]], Sequence[float]]:
        products = gram(entries)
        return functools.cache(lambda coefs: solve(products, coefs))

    return plan, Total(lambda coefs, plan: plan(tuple(coefs)))


def gram(entries: Sequence[Entry]) -> NDArray[np.float64]:
    """Inner products of the flat tensors: (k, k), one pass."""
    found = np.zeros((len(entries), len(entries)))
    if (stored := alike([sum_of(e) for e in entries])) is not None and not any(t.steps for t in stored):
        base, tuned = stored[0].base, [t.tuned[0] for t in stored]
        for start in range(0, len(tuned[0]), SLICE):
            native.gram_stored(None if base is None else base[start : start + SLICE], [t[start : start + SLICE] for t in tuned], found)
        return found
    for rows in stacks(entries):
        if not native.gram(rows, found):
            _gram([np.asarray(row) for row in rows], found)
    return found


def stacks(entries: Sequence[Entry], size: int = SLICE) -> Iterator[Any]:
    """Slices of all entries, k rows of `size` at most, in order; the next overwrites the one before."""
    sources, n = [opened(e) for e in entries], entries[0].shape.numel()
    plain = all(map(is_plain, sources))
    for start in range(0, n, size):
        stop = min(start + size, n)
        with stacked(len(sources), stop - start, plain=plain) as rows:
            for source, row in zip(sources, rows, strict=True):
                source.part(start, stop, row)
            yield rows


def squares(rows: Any) -> NDArray[np.float64]:
    """(k, n) float32 -> (k,): the sum of squares of each row."""
    found = np.zeros((len(rows), 1, 1))
    for row, one in zip(rows, found, strict=True):
        if not native.gram([row], one):
            _gram([np.asarray(row)], one)
    return found.reshape(-1)


def _gram(rows: Sequence[NDArray[np.float32]], out: NDArray[np.float64]) -> None:
    """As `native.gram`, products added in the same order: chunk by chunk, ADDENDS of them side by side."""
    n = len(rows[0])
    for r, s in itertools.combinations_with_replacement(range(len(rows)), 2):
        products = np.zeros(-(-n // CHUNK) * CHUNK)
        np.multiply(rows[r], rows[s], out=products[:n], dtype=np.float64)
        sums = np.add.accumulate(products.reshape(-1, CHUNK // ADDENDS, ADDENDS), 1)[:, -1]
        of_chunks = np.add.accumulate(sums, 1)[:, -1]
        out[r, s] = out[s, r] = np.add.accumulate(np.append(out[r, s], of_chunks))[-1]
