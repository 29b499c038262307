"""Drop: zero entries at random and rescale the rest, so that the expected change stays (DARE). Kept with probability `density` (to 2^-32).

Draws are keyed by (seed, the delta's key, tensor name, place of the entry): no global state, the same however the tensor is sliced.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from metier import check
from metier.delta import chance
from metier.delta.chance import Draws
from metier.delta.entry import PartOf
from metier.delta.scratch import array
from metier.delta.sums import Step
from metier.delta.transform import At, Transform, elementwise
from metier.lazy import torch


def drop(density: float, *, seed: int = 0, rescale: bool = True) -> Transform:
    """Keep each entry with probability `density`, divided by it if `rescale`; zero the others."""
    check.fraction("drop: density", density)
    check.integer("drop: seed", seed, low=0)
    below, factor = min(round(density * 2**32), 2**32 - 1), 1 / density if rescale else 1.0

    def part(key: str, at: At, values: Any) -> Any:
        if density == 1:
            return values
        draws = Draws.of(f"{seed}|{key}|{at.name}", at.start)
        if not chance.drop(values, draws, below, factor):
            kept = torch.from_numpy(draws.into(array("draws", len(values), np.uint32)) < below)
            values.masked_fill_(kept.logical_not_().to(values.device), 0.0).mul_(factor)
        return values

    def step(key: str, at: At, stop: int, _: PartOf) -> Step:
        return Step() if density == 1 else Step(draws=Draws.of(f"{seed}|{key}|{at.name}", at.start), below=below, factor=factor)

    return elementwise(lambda delta: delta.key, part, local=True, plain=True, step=step)
