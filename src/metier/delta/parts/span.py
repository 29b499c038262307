"""Span: combinations whose factors follow from the inner products of the experts' tensors (spheres, angles), one factor for each expert."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from metier.delta.entry import SLICE, Entry, opened
from metier.delta.parts.total import total
from metier.delta.scratch import stacked
from metier.delta.transform import At, Combine

CHUNK = 1 << 12  # products are added in float32 within a chunk, in float64 over the chunks
Solve = Callable[[Tensor, tuple[float, ...]], Sequence[float]]


def spanned(solve: Solve) -> tuple[Callable[[str, Sequence[Entry]], Any], Combine]:
    """(plan, combine) of a merge. solve: (inner products (k, k) float64, coefs) -> the factor of each expert's tensor."""

    def plan(name: str, entries: Sequence[Entry]) -> Callable[[tuple[float, ...]], Sequence[float]]:
        products = gram(entries)
        return functools.cache(lambda coefs: solve(products, coefs))

    def combine(at: At, stack: Tensor, coefs: Sequence[float], plan: Any) -> Tensor:
        return total(at, stack, plan(tuple(coefs)))

    return plan, combine


def gram(entries: Sequence[Entry]) -> Tensor:
    """Inner products of the flat tensors: (k, k) float64, one pass."""
    sources, found = [opened(e) for e in entries], torch.zeros(len(entries), len(entries), dtype=torch.float64)
    n = sources[0].shape.numel()
    for start in range(0, n, SLICE):
        stop = min(start + SLICE, n)
        with stacked(len(sources), stop - start) as rows:
            for source, row in zip(sources, rows, strict=True):
                source.part(start, stop, row)
            found += _products(rows)
    return found


def squares(rows: Tensor) -> Tensor:
    """(k, n) float32 -> (k,) float64: the sum of squares of each row."""
    return _products(rows).diagonal()


def _products(rows: Tensor) -> Tensor:
    whole = rows.shape[1] // CHUNK * CHUNK
    chunks, rest = rows[:, :whole].reshape(len(rows), -1, CHUNK).transpose(0, 1), rows[:, whole:]  # chunks: (c, k, CHUNK)
    return (chunks @ chunks.transpose(1, 2)).double().sum(0) + (rest @ rest.T).double()
