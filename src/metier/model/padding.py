"""Rows of different length as one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

IGNORE = -100  # a label that losses leave out


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(ids, mask) of rows padded on the right."""
    return _padded(rows, pad, device, left=False)


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """(ids, mask) of rows padded on the left, so that all end together."""
    return _padded(rows, pad, device, left=True)


def pad_labels(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows padded on the right with labels that losses leave out."""
    return pad_right(rows, IGNORE)[0]


def _padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device | None, *, left: bool) -> tuple[Tensor, Tensor]:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))[:, None]  # (rows, 1)
    width = int(lengths.max())
    real = np.arange(width) >= width - lengths if left else np.arange(width) < lengths  # (rows, width)
    ids = np.full(real.shape, pad, np.int64)
    ids[real] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))  # ten times sooner than a tensor of lists
    return torch.from_numpy(ids).to(device), torch.from_numpy(real.astype(np.int64)).to(device)
