"""Arcee Fusion: of a second expert only the entries that matter most are taken into the first.

Paper:       none; mergekit's method of that name.
Formula:     importance = |W2 - W1| KL(softmax(row of W2) || softmax(row of W1)); W = W2 where the importance is at least
             median + 1.5 (third quartile - first quartile) of the tensor's, W1 elsewhere.
Shapes:      both experts' tensor S, rows along the last axis; result S.
Units:       none.
Randomness:  none.
Cost:        one read of the experts, one write; whole tensors in memory, sorted once.
Deviations:  quartiles are exact; mergekit draws a million entries of larger tensors, so its result changes from run to run.
             mergekit's first expert is its base_model; here the base may be named as an expert.
Errors:      UserError where there are not exactly two experts, or they have coefs.

    >>> from metier.merge.arcee_fusion import arcee_fusion
    >>> arcee_fusion().weights
    'full'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metier.delta.transform import At, Merge, identity
from metier.merge._needs import exactly, unweighted
from metier.method import About

QUARTILES = (0.25, 0.5, 0.75)
TINY = 1e-8  # added to every probability

ABOUT = About(place="weights", experts=(2, 2), weighted=False)


def arcee_fusion() -> Merge:
    """The first expert with the important entries of the second."""
    return Merge(identity(), _combine, identity(), elementwise=False, weights="full")


def _combine(at: At, stack: Tensor, coefs: Sequence[float], plan: Any) -> Tensor:
    first, second = exactly("arcee_fusion", stack, 2)
    unweighted("arcee_fusion", coefs)
    if first.numel() == 0:
        return first
    importance = _importance(first, second)
    ordered = importance.reshape(-1).sort().values
    low, middle, high = (ordered[int(torch.tensor(q) * (len(ordered) - 1))] for q in QUARTILES)
    return torch.where(importance >= middle + 1.5 * (high - low), second, first)


def _importance(first: Tensor, second: Tensor) -> Tensor:
    p, q = second.softmax(-1) + TINY, first.softmax(-1) + TINY
    divergence = (p * (p / q).log()).sum(-1, keepdim=True) if first.ndim else (p * (p / q).log())
    return (second - first).abs() * divergence
