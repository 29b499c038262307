"""Mask: keep the entries where a mask is True; True = the change applies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from metier.delta.delta import Delta
from metier.delta.transform import At, Transform, elementwise
from metier.errors import KeyMismatch, ShapeMismatch

if TYPE_CHECKING:
    from torch import Tensor


def mask(masks: Mapping[str, Tensor] | Callable[[str], Tensor]) -> Transform:
    """Zero what the tensor's mask (bool, the tensor's shape) leaves out. Raises KeyMismatch, ShapeMismatch for masks that do not fit."""

    def prepare(delta: Delta) -> None:
        if not callable(masks) and (lacking := sorted(set(delta) - set(masks))):
            raise KeyMismatch(f"mask: no mask for {len(lacking)} tensors, the first '{lacking[0]}'.")

    def part(_: None, at: At, values: Tensor) -> Tensor:
        keep = masks(at.name) if callable(masks) else masks[at.name]
        if tuple(keep.shape) != tuple(at.shape):
            raise ShapeMismatch(f"mask: '{at.name}' has shape {tuple(at.shape)}, its mask {tuple(keep.shape)}.")
        return values.masked_fill_(~keep.reshape(-1)[at.start : at.start + len(values)].bool().to(values.device), 0.0)

    return elementwise(prepare, part, local=True)
