"""Ternary: products and merges of packed changes from their signs and positions, without forming them.

A packed change is scale * s with s in {-1, 0, 1}. Two bit planes, one of the positive and one of the negative positions, give
products by counting bits: <a, b> = scale_a scale_b (|a+ & b+| + |a- & b-| - |a+ & b-| - |a- & b+|). Merges visit only the positions
where one of the changes is not zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from metier.delta import Packed, Sparse
from metier.errors import ShapeMismatch

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def planes(packed: Packed) -> Planes:
    """(positive, negative) positions, a bit each."""
    sparse, n = packed.sparse(), packed.shape.numel()
    indices, positive = sparse.indices.numpy(), (sparse.values * packed.scale > 0).numpy()
    flags = np.zeros((2, n), bool)
    flags[0, indices[positive]] = True
    flags[1, indices[~positive]] = True
    return np.packbits(flags[0]), np.packbits(flags[1])


def dot(a: Packed, b: Packed) -> float:
    """<a, b>, by counting bits."""
    _alike([a, b])
    same, opposite = agreement(planes(a), planes(b))
    return a.scale * b.scale * (same - opposite)


def cosine(a: Packed, b: Packed) -> float:
    """<a, b> / (|a| |b|); 0 where one of them is zero."""
    norms = abs(a.scale * b.scale) * float(np.sqrt(float(a.count) * b.count))
    return dot(a, b) / norms if norms else 0.0


def agreement(a: Planes, b: Planes) -> tuple[int, int]:
    """At how many positions both have the same sign, and opposite ones."""
    return _common(a[0], b[0]) + _common(a[1], b[1]), _common(a[0], b[1]) + _common(a[1], b[0])


def total(changes: Sequence[Packed], coefs: Sequence[float]) -> Sparse:
    """sum_i coef_i * change_i, at the positions where there is one."""
    at, values, _ = _entries(changes, coefs)
    indices, place = np.unique(at, return_inverse=True)
    return _sparse(indices, _sums(place, values, len(indices)), changes[0].shape)


def elect_sign_mean(changes: Sequence[Packed], coefs: Sequence[float]) -> Sparse:
    """The sign-elected mean of ties, weighted by |coef|: at each position the changes whose sign is that of the sum."""
    at, values, which = _entries(changes, coefs)
    indices, place = np.unique(at, return_inverse=True)
    sums = _sums(place, values, len(indices))
    agrees = np.sign(values) == np.sign(sums)[place]
    share = np.abs(np.asarray(coefs, np.float64))[which]
    weight = _sums(place[agrees], share[agrees], len(indices))
    summed = _sums(place[agrees], values[agrees], len(indices))
    return _sparse(indices, np.divide(summed, weight, out=np.zeros_like(summed), where=weight > 0), changes[0].shape)


def _entries(changes: Sequence[Packed], coefs: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """(position, coef * value, which change) of every entry that is not zero."""
    _alike(changes)
    opened = [c.sparse() for c in changes]
    at = np.concatenate([s.indices.numpy() for s in opened])
    values = np.concatenate([s.values.double().numpy() * c for s, c in zip(opened, coefs, strict=True)])
    return at, values, np.repeat(np.arange(len(changes)), [len(s.indices) for s in opened])


def _sums(place: NDArray[np.int64], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The sum of the values at each of `count` places; float64 also where there is none."""
    return np.bincount(place, values, count).astype(np.float64)


def _sparse(indices: NDArray[np.int64], values: NDArray[np.float64], shape: torch.Size) -> Sparse:
    there = values != 0
    return Sparse(torch.from_numpy(indices[there]), torch.from_numpy(values[there]).float(), shape)


def _common(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(a & b).sum(dtype=np.int64))


def _alike(changes: Sequence[Packed]) -> None:
    shapes = list(dict.fromkeys(tuple(c.shape) for c in changes))
    if len(shapes) != 1:
        raise ShapeMismatch(f"packed changes of one tensor are needed; got the shapes {', '.join(map(str, shapes))}.")
