"""Drop: zero entries at random and rescale the rest, so that the expected change stays (DARE). Kept with probability `density`.

Draws are keyed by (seed, the delta's key, tensor name, block of entries): no global state, the same however the tensor is sliced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metier import check
from metier.delta import chance
from metier.delta.entry import PartOf
from metier.delta.scratch import array
from metier.delta.sums import Step
from metier.delta.transform import At, Transform, elementwise
from metier.lazy import torch

DRAWN = 1 << 16  # entries whose uniform draws share one generator
MANY = 1 << 18  # entries that are kept or dropped by one generator's draws


def drop(density: float, *, seed: int = 0, rescale: bool = True) -> Transform:
    """Keep each entry with probability `density`, divided by it if `rescale`; zero the others."""
    check.fraction("drop: density", density)
    check.integer("drop: seed", seed, low=0)

    def part(key: str, at: At, values: Any) -> Any:
        if density == 1:
            return values
        keeps = kept(f"{seed}|{key}|{at.name}", density, at)
        for first, last, keep in keeps(at.start, at.start + len(values)):
            _only(values[first - at.start : last - at.start], keep, 1 / density if rescale else 1.0)
        return values

    def step(key: str, at: At, stop: int, _: PartOf) -> Step:
        if density == 1:
            return Step()
        keep = array(f"kept {key}", stop - at.start, np.uint8)
        for first, last, drawn in kept(f"{seed}|{key}|{at.name}", density, at)(at.start, stop):
            keep[first - at.start : last - at.start] = drawn
        return Step(kept=keep, factor=1 / density if rescale else 1.0)

    return elementwise(lambda delta: delta.key, part, local=True, plain=True, step=step)


def _only(values: Any, keep: NDArray[np.uint8], factor: float) -> None:
    """Zero, in place, where `keep` is 0; the others times the factor."""
    if not chance.drop(values, keep, factor):
        values.view(torch.int32).bitwise_and_(torch.from_numpy(np.negative(keep.view(np.int8))).to(values.device))
        if factor != 1:
            values.mul_(factor)


def kept(key: str, density: float, at: At) -> Callable[[int, int], Iterator[tuple[int, int, NDArray[np.uint8]]]]:
    """Which flat entries of a tensor are kept, each with probability `density` (to 2^-40): (first, last, 1 kept | 0 dropped), block by block.

    A byte is drawn for each entry; where it is the one that `density` splits, 32 more bits decide. The next block overwrites the one before.
    """
    whole, n = divmod(round(density * 2**40), 2**32), at.shape.numel()

    def blocks(start: int, stop: int) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        for block in range(start // MANY, -(-stop // MANY)):
            first, last = max(start, block * MANY), min(stop, (block + 1) * MANY)
            size = min(MANY, n - block * MANY)
            keep, source = array("drawn", -(-size // 8) * 8, np.uint8), _generator(key, block)
            if not chance.draw_kept(source, *whole, size, keep):
                _draw_kept(np.random.Generator(source), *whole, size, keep)
            yield first, last, keep[first - block * MANY : last - block * MANY]

    return blocks


def _draw_kept(generator: np.random.Generator, split: int, rest: int, size: int, out: NDArray[np.uint8]) -> None:
    """As `chance.draw_kept`."""
    draws = generator.integers(0, 2**64, -(-size // 8), dtype=np.uint64).view(np.uint8)[:size]
    places = np.flatnonzero(draws == split)
    np.less(draws, split, out=out[:size].view(np.bool_))
    out[places] = generator.integers(0, 2**32, len(places), dtype=np.uint64) < rest


def uniform(key: str, start: int, stop: int) -> Iterator[tuple[int, int, NDArray[np.uint32]]]:
    """(first, last, draws): 32-bit uniform draws for the flat entries [start, stop), block by block; the next overwrites the one before."""
    for block in range(start // DRAWN, -(-stop // DRAWN)):
        draws, source = array("uniform", DRAWN, np.uint32), _generator(key, block)
        if not chance.draw(source, draws):
            draws[:] = np.random.Generator(source).integers(0, 2**64, DRAWN // 2, dtype=np.uint64).view(np.uint32)
        first, last = max(start, block * DRAWN), min(stop, (block + 1) * DRAWN)
        yield first, last, draws[first - block * DRAWN : last - block * DRAWN]


def _generator(key: str, block: int) -> np.random.SFC64:
    return np.random.SFC64(int.from_bytes(hashlib.sha256(f"{key}|{block}".encode()).digest()[:16], "little"))
