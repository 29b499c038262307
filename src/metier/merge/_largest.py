"""Largest: masks of an exact number of entries over several tensors, in memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from metier import check
from metier.errors import UserError


def largest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks, shaped as the tensors, of the `count` largest entries over all of them; ties in the order given, by lowest index."""
    flat = torch.cat([s.flatten() for s in scores.values()])
    mask = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    mask[flat.sort(descending=True, stable=True).indices[:count]] = True
    parts = mask.split([s.numel() for s in scores.values()])
    return {n: part.view(s.shape) for (n, s), part in zip(scores.items(), parts, strict=True)}


def counted(method: str, density: float, tensors: Mapping[str, Tensor]) -> int:
    """How many entries a density keeps of all tensors. Raises UserError where that is none."""
    total = sum(t.numel() for t in tensors.values())
    check.fraction("density", density)
    if (count := round(density * total)) < 1:
        raise UserError(f"{method}: density {density} of {total} entries keeps none. Say at least {1 / max(total, 1):.2g}.")
    return count
