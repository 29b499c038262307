"""Truncate: the nearest matrix of a given rank, or the lowest rank that holds a share of the energy, by SVD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metier import check
from metier.delta.kinds import LowRank
from metier.delta.transform import Transform, per_tensor
from metier.errors import UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def truncate(rank: int | None = None, *, energy: float | None = None) -> Transform:
    """Matrices to rank `rank`, or to the lowest that keeps the fraction `energy` of the squared norm; other tensors as they are."""
    _one("truncate", rank, energy)

    def change(tensor: Tensor) -> Tensor:
        if tensor.ndim != 2 or tensor.numel() == 0 or (rank is not None and rank >= min(tensor.shape)) or energy == 1:
            return tensor
        return low_rank(tensor, rank, energy=energy).dense()

    return per_tensor(change)


def low_rank(tensor: Tensor, rank: int | None = None, *, energy: float | None = None) -> LowRank:
    """The factors: up = U sqrt(S), down = sqrt(S) V^T. tensor: (out, in), float32."""
    _one("low_rank", rank, energy)
    U, S, Vh = torch.linalg.svd(tensor.double() if tensor.numel() < 1 << 16 else tensor, full_matrices=False)
    r = min(rank, len(S)) if rank is not None else rank_of(S, energy or 1.0)
    root = S[:r].sqrt()
    return LowRank((U[:, :r] * root).float(), (root[:, None] * Vh[:r]).float())


def rank_of(singular: Tensor, energy: float) -> int:
    """The lowest rank that keeps the fraction `energy` of the sum of squares; 0 for a zero matrix. singular: descending."""
    squares = singular.double().square()
    if float(squares.sum()) == 0:
        return 0
    share = squares.cumsum(0) / squares.sum()
    return min(int((share < energy - 1e-12).sum()) + 1, len(singular))


def _one(where: str, rank: int | None, energy: float | None) -> None:
    if (rank is None) == (energy is None):
        raise UserError(f"{where}: give either rank or energy; got rank={rank}, energy={energy}.")
    if rank is not None:
        check.integer(f"{where}: rank", rank, low=1)
    if energy is not None:
        check.fraction(f"{where}: energy", energy)
