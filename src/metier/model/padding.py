"""Rows of different length as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE = -100  # a label that losses leave out


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(ids, mask) of rows padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([[*r, *[pad] * (width - len(r))] for r in rows], device=device)
    return ids, torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=device)


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(ids, mask) of rows padded on the left, so that all end together."""
    width = max(map(len, rows))
    ids = torch.tensor([[*[pad] * (width - len(r)), *r] for r in rows], device=device)
    return ids, torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)


def pad_labels(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows padded on the right with labels that losses leave out."""
    return pad_right(rows, IGNORE)[0]
