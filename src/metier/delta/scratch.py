"""Scratch: memory of a thread's own that is used again and again, so that slices are worked on in a core's cache without asking for more."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metier.delta.entry import SLICE
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

_own = threading.local()


@contextlib.contextmanager
def stacked(k: int, n: int, device: torch.device | None = None, *, plain: bool = False) -> Iterator[Any]:
    """(k, n) scratch for a stack of slices; a stack that is asked for inside the block (a merge of merges) is another one.

    plain: numpy arrays, in a list.
    """
    depth: int = getattr(_own, "depth", 0)
    _own.depth = depth + 1
    try:
        yield list(_rows(depth, k, n)) if plain else scratch(f"stack{depth}", n, rows=k, device=device).view(k, n)
    finally:
        _own.depth = depth


def _rows(depth: int, k: int, n: int) -> NDArray[np.float32]:
    return array(f"stack{depth}", k * n).reshape(k, n)


def array(name: str, n: int, dtype: type[np.generic] = np.float32) -> NDArray[Any]:
    """(n,) as `scratch`, a numpy array. Scratch of n above SLICE, of several rows, is made anew where it has grown."""
    found: dict[str, NDArray[Any]] = _own.__dict__.setdefault("arrays", {})
    if name not in found or found[name].dtype != dtype or len(found[name]) < n:
        found[name] = np.empty(n, dtype)
    return found[name][:n]


def place(k: int, n: int, *, plain: bool = False) -> Any:
    """(n,) scratch for the result of a merge of k: where the first row of its stack is, so that it need not be copied there."""
    if plain:
        return _rows(getattr(_own, "depth", 0), k, n)[0]
    return scratch(f"stack{getattr(_own, 'depth', 0)}", n, rows=k).view(k, n)[0]


def scratch(name: str, n: int, dtype: torch.dtype | None = None, rows: int = 1, device: torch.device | None = None) -> Tensor:
    """(n,), or (rows, n) if rows > 1, not cleared; the next call with this name in this thread overwrites it.

    Large ones, and those of another device (whose own cache keeps them), are made anew.
    """
    dtype = dtype or torch.float32
    if n > SLICE or (device is not None and device.type != "cpu"):
        return torch.empty((rows, n) if rows > 1 else n, dtype=dtype, device=device)
    found: dict[str, Tensor] = _own.__dict__.setdefault("found", {})
    if name not in found or found[name].dtype != dtype or found[name].numel() < rows * n:
        with torch.inference_mode(False):  # who asks next may not be inferring
            found[name] = torch.empty(rows * SLICE, dtype=dtype)
    part = found[name][: rows * n]
    return part.view(rows, n) if rows > 1 else part
