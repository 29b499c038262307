"""Drop: zero entries at random and rescale the rest, so that the expected change stays (DARE). Kept with probability `density`.

Draws are keyed by (seed, the delta's key, tensor name, block of entries): no global state, the same however the tensor is sliced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metier import check
from metier.delta.transform import At, Transform, elementwise

DRAWN = 1 << 16  # entries whose draws share one generator


def drop(density: float, *, seed: int = 0, rescale: bool = True) -> Transform:
    """Keep each entry with probability `density`, divided by it if `rescale`; zero the others."""
    check.fraction("drop: density", density)
    check.integer("drop: seed", seed, low=0)

    def part(key: str, at: At, values: Tensor) -> Tensor:
        if density == 1:
            return values
        numbers, limit = values.numpy(), np.uint32(min(round(density * 2**32), 2**32 - 1))
        for first, last, draws in uniform(f"{seed}|{key}|{at.name}", at.start, at.start + len(values)):
            np.copyto(numbers[first - at.start : last - at.start], 0, where=draws >= limit)
        return values.div_(density) if rescale else values

    return elementwise(lambda delta: delta.key, part, local=True)


def uniform(key: str, start: int, stop: int) -> Iterator[tuple[int, int, NDArray[np.uint32]]]:
    """(first, last, draws): 32-bit uniform draws for the flat entries [start, stop), block by block."""
    for block in range(start // DRAWN, -(-stop // DRAWN)):
        seed = int.from_bytes(hashlib.sha256(f"{key}|{block}".encode()).digest()[:16], "little")
        draws = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, DRAWN // 2, dtype=np.uint64).view(np.uint32)
        first, last = max(start, block * DRAWN), min(stop, (block + 1) * DRAWN)
        yield first, last, draws[first - block * DRAWN : last - block * DRAWN]
