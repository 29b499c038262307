"""Held: a tensor that can only be formed as a whole, formed once and held for those who read it slice by slice.

A large one is held in a file without a name, mapped into memory: the system may write it out, as it may the models' own files, so
that a merge of many such tensors takes no more memory of its own than forming one of them.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


LARGE = 1 << 22  # entries from which on a tensor is held in a file: 16 MiB of float32
_one = (
    threading.RLock()
)  # a tensor is formed of tensors of its own size, so that a small one never waits for a large one while it is awaited


class Held:
    """Call it for the tensor, flat and float32: `form` is called at the first time, that of large tensors one after another."""

    def __init__(self, form: Callable[[], Tensor], n: int) -> None:
        self.form, self.n = form, n
        self.own, self.value = threading.RLock(), None  # type: tuple[threading.RLock, Tensor | None]

    def __call__(self) -> Tensor:
        with _one if self.n >= LARGE else contextlib.nullcontext(), self.own:
            if self.value is None:
                formed = self.form().reshape(-1)
                self.value = formed if self.n < LARGE else roomy(self.n).copy_(formed)
        return self.value


def roomy(n: int) -> Tensor:
    """(n,) float32, not cleared; a large one in a file that goes when the tensor goes."""
    if n < LARGE:
        return torch.empty(n)
    with tempfile.TemporaryFile(prefix="metier-") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * n)  # a full disk is an error now, and not a signal later
        return torch.frombuffer(mmap.mmap(file.fileno(), 4 * n), dtype=torch.float32)
