"""Golomb-Rice coding of ascending indices: few bits for each where they are dense, exact both ways, vectorised in numpy.

A gap is the distance to the index before, less one (the first: the index itself). With parameter r a gap g is written as
g >> r ones, a zero, and the low r bits of g, high bit first. The stream holds first all low bits, then all unary parts, each
filled to whole bytes; bits are packed high bit first. Where no position is left out (0, 1, ..., n - 1) the stream is empty.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from metier.errors import UserError

DAMAGED = "delta: a code of positions is damaged ({what}). Make the file again."


def parameter(count: int, span: int) -> int:
    """The r that about minimises the length for `count` of `span` positions drawn at random (Golomb's rule for geometric gaps)."""
    if count == 0 or count >= span:
        return 0
    ratio = math.log(2) * span / count
    return max(0, math.ceil(math.log2(ratio))) if ratio > 1 else 0


def encode(indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], int]:
    """(code, r) of ascending unique indices."""
    if len(indices) == 0 or len(indices) == int(indices[-1]) + 1:
        return np.empty(0, np.uint8), 0
    gaps = np.diff(indices, prepend=-1) - 1
    r = parameter(len(indices), int(indices[-1]) + 1)
    low = (gaps[:, None] >> np.arange(r - 1, -1, -1)) & 1
    ends = np.cumsum((gaps >> r) + 1) - 1  # where the zeros of the unary parts are
    unary = np.ones(int(ends[-1]) + 1, np.uint8)
    unary[ends] = 0
    return np.concatenate([np.packbits(low.astype(np.uint8).reshape(-1)), np.packbits(unary)]), r


def decode(code: NDArray[np.uint8], count: int, r: int, span: int) -> NDArray[np.int64]:
    """The indices of a code. Raises UserError where it does not give `count` positions below `span`."""
    if len(code) == 0 and (count == 0 or (r == 0 and 0 <= count <= span)):
        return np.arange(count)
    plain = -(-count * r // 8)
    if not 0 < count <= span or not 0 <= r < 63 or len(code) < plain:
        raise UserError(DAMAGED.format(what=f"{count} positions, parameter {r}, {len(code)} bytes"))
    low = np.unpackbits(code[:plain], count=count * r).reshape(count, r).astype(np.int64)
    ends = np.flatnonzero(np.unpackbits(code[plain:]) == 0)
    if len(ends) < count or -(-(int(ends[count - 1]) + 1) // 8) != len(code) - plain:
        raise UserError(DAMAGED.format(what=f"{count} positions are said, the stream does not end with the last"))
    high = np.diff(ends[:count], prepend=-1) - 1
    if r and int(high.max()) > span >> r:
        raise UserError(DAMAGED.format(what="a gap reaches beyond the tensor"))
    gaps = (high << r) + low @ (1 << np.arange(r - 1, -1, -1, dtype=np.int64)) if r else high
    indices = np.cumsum(gaps + 1) - 1
    if int(indices[-1]) >= span or bool((gaps < 0).any()) or int(gaps.max()) >= span:
        raise UserError(DAMAGED.format(what="a position lies beyond the tensor"))
    return indices


def bits(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Flags as bits, high bit first, filled to whole bytes."""
    return np.packbits(flags)


def unbits(packed: NDArray[np.uint8], count: int) -> NDArray[np.bool_]:
    """The flags again. Raises UserError where there are not as many bytes as `count` flags take."""
    if len(packed) != -(-count // 8):
        raise UserError(DAMAGED.format(what=f"{len(packed)} bytes of signs for {count} positions"))
    return np.unpackbits(packed, count=count).astype(bool)
