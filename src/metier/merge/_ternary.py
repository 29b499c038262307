"""Ternary: products of packed changes from their signs and positions, without forming them.

A packed change is scale * s with s in {-1, 0, 1}. Two bit planes, one of the positive and one of the negative positions, give
products by counting bits: <a, b> = scale_a scale_b (|a+ & b+| + |a- & b-| - |a+ & b-| - |a- & b+|).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metier.delta import Packed, golomb
from metier.errors import ShapeMismatch

Planes = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def planes(packed: Packed) -> Planes:
    """(positive, negative) positions, a bit each."""
    n, positive = packed.shape.numel(), golomb.unbits(packed.signs.cpu().numpy(), packed.count)
    if packed.scale < 0:
        positive = ~positive
    if packed.full:
        return np.packbits(positive), np.packbits(~positive)
    indices = golomb.decode(packed.code.cpu().numpy(), packed.count, packed.rice, n)
    flags = np.zeros((2, n), bool)
    flags[0, indices[positive]] = True
    flags[1, indices[~positive]] = True
    return np.packbits(flags[0]), np.packbits(flags[1])


def agreement(a: Planes, b: Planes) -> tuple[int, int]:
    """At how many positions both have the same sign, and opposite ones. Raises ShapeMismatch where the planes differ in length."""
    if len(a[0]) != len(b[0]):
        raise ShapeMismatch(f"packed changes of one tensor are needed; got {8 * len(a[0])} and {8 * len(b[0])} positions.")
    return _common(a[0], b[0]) + _common(a[1], b[1]), _common(a[0], b[1]) + _common(a[1], b[0])


def _common(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(a & b).sum(dtype=np.int64))
