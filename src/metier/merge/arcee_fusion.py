"""Arcee Fusion: of a second expert only the entries that matter most are taken into the first.

Paper:       none; mergekit's method of that name.
Formula:     importance = |W2 - W1| KL(softmax(row of W2) || softmax(row of W1)); W = W2 where the importance is at least
             median + 1.5 (third quartile - first quartile) of the tensor's, W1 elsewhere.
Shapes:      both experts' tensor S, rows along the last axis; result S.
Units:       none.
Randomness:  none.
Cost:        two reads of the experts, one write; a block of rows of each in memory, four bytes an entry of a tensor (in a file where it
             is large).
Deviations:  quartiles are exact; mergekit draws a million entries of larger tensors, so its result changes from run to run.
             mergekit's first expert is its base_model; here the base may be named as an expert.
Errors:      UserError where there are not exactly two experts, or they have coefs.

    >>> from metier.merge.arcee_fusion import arcee_fusion
    >>> arcee_fusion().weights
    'full'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metier.delta.entry import SLICE, Entry
from metier.delta.held import roomy
from metier.delta.kinds import Dense
from metier.delta.select import smallest
from metier.delta.transform import At, Merge, identity
from metier.merge._needs import exactly, unweighted
from metier.method import About

QUARTILES = (0.25, 0.5, 0.75)
TINY = 1e-8  # added to every probability

ABOUT = About(place="weights", experts=(2, 2), weighted=False)


def arcee_fusion() -> Merge:
    """The first expert with the important entries of the second."""
    return Merge(identity(), _combine, identity(), _plan, weights="full")


class _Plan(NamedTuple):
    """The importance of every entry, (n,), and from which one on the second expert's is taken."""

    importance: Tensor
    least: float


def _plan(name: str, entries: Sequence[Entry]) -> _Plan:
    first, second = exactly("arcee_fusion", entries, 2)
    n, width = first.shape.numel(), first.shape[-1] if first.shape else 1
    found, step = roomy(n), width * max(1, SLICE // max(1, width))
    for start in range(0, n, max(1, step)):
        stop = min(start + step, n)
        rows = (e.part(start, stop).view(-1, width) for e in (first, second))
        found[start:stop] = _importance(*rows).view(-1)
    ranks = [int(torch.tensor(q) * (n - 1)) for q in QUARTILES]
    low, middle, high = (torch.tensor(v) for v in smallest(Dense(found), ranks)) if n else torch.zeros(3)
    return _Plan(found, float(middle + 1.5 * (high - low)))


def _combine(at: At, stack: Tensor, coefs: Sequence[float], plan: Any) -> Tensor:
    first, second = stack
    unweighted("arcee_fusion", coefs)
    importance = plan.importance[at.start : at.start + first.numel()].view(first.shape).to(first.device)
    return torch.where(importance >= plan.least, second, first)


def _importance(first: Tensor, second: Tensor) -> Tensor:
    """(rows, n) of both experts -> (rows, n)."""
    p, q = second.softmax(-1) + TINY, first.softmax(-1) + TINY
    return (second - first).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
