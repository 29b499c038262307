"""Small made-up bases and experts, and how merges are called on them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metier.delta import Delta, Merge, diff
from metier.merge._method import change_of
from metier.method import Method, catalogue

SHAPES = {
    "embed_tokens.weight": (10, 8),
    "model.layers.0.attn.weight": (16, 8),
    "model.layers.0.attn.bias": (16,),
    "model.layers.1.mlp.weight": (8, 24),
    "model.layers.3.mlp.weight": (8, 16),
    "norm.weight": (8,),
}
Weights = dict[str, Tensor]


def merges() -> dict[str, Method]:
    """Every merge of the catalogue that needs no data."""
    return {name: m for name, m in catalogue().items() if m.merge and m.room == "merge"}


def made(method: Method, **hyperparameters: Any) -> Merge:
    """The merge with these hyperparameters."""
    merge: Merge = getattr(importlib.import_module(method.module), method.function)(**hyperparameters)
    return merge


def weights(seed: int, shapes: Mapping[str, Sequence[int]] = SHAPES) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(tuple(s), generator=generator) for n, s in shapes.items()}


def tuned(base: Weights, seed: int, size: float = 0.1) -> Weights:
    change = weights(seed, {n: tuple(t.shape) for n, t in base.items()})
    return {n: t + size * change[n] for n, t in base.items()}


def ours(merge: Merge, base: Weights, experts: Sequence[Weights], *, coefs: Sequence[float] = (), lines: float | None = None) -> Weights:
    """The merged weights, float32."""
    return change_of(merge, [diff(base, e) for e in experts], base, coefs=coefs, lines=lines).apply(base)


def values(delta: Delta) -> Weights:
    return {n: e.dense() for n, e in delta.entries.items()}


def close(one: Weights, other: Weights, *, atol: float = 2e-6) -> None:
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(one[name].float(), other[name].float(), atol=atol, rtol=2e-5, msg=lambda m, name=name: f"{name}: {m}")
