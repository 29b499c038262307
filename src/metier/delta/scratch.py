"""Scratch: memory of a thread's own that is used again and again, so that slices are worked on in a core's cache without asking for more."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from metier.delta.entry import SLICE

_own = threading.local()


def scratch(name: str, n: int, dtype: torch.dtype = torch.float32, rows: int = 1) -> Tensor:
    """(n,), or (rows, n) if rows > 1, not cleared; the next call with this name in this thread overwrites it. Large ones are made anew."""
    if n > SLICE:
        return torch.empty((rows, n) if rows > 1 else n, dtype=dtype)
    found: dict[str, Tensor] = _own.__dict__.setdefault("found", {})
    if name not in found or found[name].dtype != dtype or found[name].numel() < rows * n:
        found[name] = torch.empty(rows * SLICE, dtype=dtype)
    part = found[name][: rows * n]
    return part.view(rows, n) if rows > 1 else part
