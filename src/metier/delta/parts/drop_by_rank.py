"""Drop by rank: entries of a row are kept at random, the larger the likelier, and divided by their own probability (DELLA's MagPrune).

Draws are keyed as those of `drop`: by seed, the delta's key, tensor name and place of the entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from metier import check
from metier.delta import chance
from metier.delta.chance import Draws
from metier.delta.entry import PartOf
from metier.delta.scratch import array
from metier.delta.sums import Step
from metier.delta.transform import At, Transform, elementwise
from metier.errors import UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def drop_by_rank(density: float, epsilon: float, *, seed: int = 0, rescale: bool = True) -> Transform:
    """Keep an entry with probability density - epsilon (the smallest of its row) to density + epsilon (the largest), linear in the rank.

    A row is what runs along the last axis; equal magnitudes rank by index. Raises UserError where a probability leaves (0, 1].
    """
    check.fraction("drop_by_rank: density", density)
    check.number("drop_by_rank: epsilon", epsilon, low=0, high=1)
    check.integer("drop_by_rank: seed", seed, low=0)
    if density - epsilon <= 0 or density + epsilon > 1 + 1e-9:
        raise UserError(
            f"drop_by_rank: density - epsilon and density + epsilon must lie in (0, 1]; got {density} and {epsilon}. Lower epsilon."
        )

    def part(key: str, at: At, values: Any) -> Any:
        if density == 1 or not len(values):
            return values
        width, draws = _width(at), Draws.of(f"{seed}|{key}|{at.name}", at.start).into(array("draws", len(values), np.uint32))
        divisors = array("divisors", len(values))
        if chance.thinning(values, width, draws, density - epsilon, 2 * epsilon, rescale, divisors) and chance.divide(values, divisors):
            return values
        kept = _keep(values.view(-1, width), density, epsilon).view(-1)
        drawn = torch.from_numpy((draws >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)).to(values.device)
        return torch.where(drawn < kept, values / kept if rescale else values, 0.0)

    def step(key: str, at: At, stop: int, part_of: PartOf) -> Step:
        if density == 1:
            return Step()
        width = _width(at)
        first, last = at.start // width * width, -(-stop // width) * width  # whole rows
        values, divisors = part_of(first, last, array("ranked", last - first)), array(f"divisors {key}", last - first)
        draws = Draws.of(f"{seed}|{key}|{at.name}", first).into(array("draws", last - first, np.uint32))
        chance.thinning(values, width, draws, density - epsilon, 2 * epsilon, rescale, divisors)
        return Step(divisors=divisors[at.start - first : stop - first])

    return elementwise(lambda delta: delta.key, part, local=True, rows=True, plain=True, step=step)


def _width(at: At) -> int:
    """Entries in a row."""
    return at.shape[-1] if at.shape else 1


def _keep(rows: Tensor, density: float, epsilon: float) -> Tensor:
    """Probability to be kept: (r, n), by the rank of the magnitude within the row."""
    n = rows.shape[1]
    share = _ranks(rows) / (n - 1) if n > 1 else torch.full_like(rows, 0.5)
    return (density - epsilon + 2 * epsilon * share).clamp_(max=1.0)


def _ranks(rows: Tensor) -> Tensor:
    """The rank of each magnitude within its row, from 0, equal ones by index: (r, n), float32."""
    r, n = rows.shape
    if rows.device.type != "cpu":
        order = rows.abs().argsort(dim=1, stable=True)
        return torch.empty_like(rows).scatter_(1, order, torch.arange(n, device=rows.device).to(rows.dtype).expand(r, n))
    keys = (rows.contiguous().numpy().view(np.uint32) & np.uint32(0x7FFFFFFF)).astype(np.uint64) << np.uint64(32)
    keys |= np.arange(
        n, dtype=np.uint64
    )  # bits of a magnitude, then its index: sorted as numbers, which is three times as fast as an argsort
    keys.sort(axis=1)
    places = keys.astype(np.uint32) + np.arange(0, r * n, n)[:, None]
    ranks = np.empty(r * n, np.float32)
    ranks[places.reshape(-1)] = np.tile(np.arange(n).astype(np.float32), r)
    return torch.from_numpy(ranks).view(r, n)
