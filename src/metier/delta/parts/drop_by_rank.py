"""Drop by rank: entries of a row are kept at random, the larger the likelier, and divided by their own probability (DELLA's MagPrune).

Draws are keyed as those of `drop`: by seed, the delta's key, tensor name and block of entries.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from metier import check
from metier.delta.parts.drop import uniform
from metier.delta.transform import Transform
from metier.errors import UserError

ROWS = 1 << 20  # entries of whole rows that are ranked at once


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

    def apply(key: str, name: str, tensor: Tensor) -> Tensor:
        if tensor.numel() == 0 or density == 1:
            return tensor
        rows, text = tensor.reshape(-1, tensor.shape[-1] if tensor.ndim else 1), f"{seed}|{key}|{name}"
        width, out = rows.shape[1], torch.empty_like(rows)
        many = max(1, ROWS // width)
        for first in range(0, len(rows), many):
            block = rows[first : first + many]
            kept = _keep(block, density, epsilon)
            draws = _draws(text, first * width, first * width + block.numel()).view(block.shape)
            out[first : first + many] = torch.where(draws < kept, block / kept if rescale else block, 0.0)
        return out.view(tensor.shape)

    return Transform(lambda delta: delta.key, apply, local=True)


def _keep(rows: Tensor, density: float, epsilon: float) -> Tensor:
    """Probability to be kept: (r, n), by the rank of the magnitude within the row."""
    n = rows.shape[1]
    ranks = rows.abs().argsort(dim=1, stable=True).argsort(dim=1)
    share = ranks.float() / (n - 1) if n > 1 else torch.full(rows.shape, 0.5)
    return (density - epsilon + 2 * epsilon * share).clamp_(max=1.0)


def _draws(key: str, start: int, stop: int) -> Tensor:
    """Uniform draws in [0, 1) for the flat entries [start, stop), float32."""
    blocks = [draws for _, _, draws in uniform(key, start, stop)]
    return torch.from_numpy((np.concatenate(blocks) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24))
