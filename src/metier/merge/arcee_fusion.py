"""Arcee Fusion: of a second expert only the entries that matter most are taken into the first.

Paper:       none; mergekit's method of that name.
Formula:     importance = |W2 - W1| KL(softmax(row of W2) || softmax(row of W1)); W = W2 where the importance is at least
             median + 1.5 (third quartile - first quartile) of the tensor's, W1 elsewhere.
Shapes:      both experts' tensor S, rows along the last axis; result S.
Units:       none.
Randomness:  none.
Cost:        three reads of the experts, one write; a block of rows of each in memory.
Deviations:  quartiles are exact; mergekit draws a million entries of larger tensors, so its result changes from run to run.
             mergekit's first expert is its base_model; here the base may be named as an expert.
Errors:      UserError where there are not exactly two experts, or they have coefs.

    >>> from metier.merge.arcee_fusion import arcee_fusion
    >>> arcee_fusion().weights
    'full'
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.delta import native
from metier.delta.entry import SLICE, Entry, is_plain
from metier.delta.parts.span import stacks
from metier.delta.scratch import stacked
from metier.delta.select import largest
from metier.delta.transform import At, Merge, identity, in_slices
from metier.lazy import torch
from metier.merge._needs import exactly, unweighted
from metier.method import About

if TYPE_CHECKING:
    from torch import Tensor

QUARTILES = (0.25, 0.5, 0.75)
TINY = 1e-8  # added to every probability

ABOUT = About(place="weights", experts=(2, 2), weighted=False)


def arcee_fusion() -> Merge:
    """The first expert with the important entries of the second."""
    return Merge(identity(), _combine, identity(), _plan, weights="full", plain=True)


class _Plan(NamedTuple):
    """The divergence of every row of `width` entries, (rows,), and from which importance on the second expert's entries are taken."""

    divergence: NDArray[np.float32]
    width: int
    least: float


def _plan(name: str, entries: Sequence[Entry]) -> _Plan:
    first, second = exactly("arcee_fusion", entries, 2)
    shape, n = first.shape, first.shape.numel()
    width = shape[-1] if shape else 1
    if n == 0:
        return _Plan(np.empty(0, np.float32), 1, 0.0)
    found, row = np.empty(n // width, np.float32), 0
    for a, b in stacks((first, second), width * max(1, SLICE // width)):
        rows = found[row : row + len(a) // width]
        if not native.divergence(a, b, width, TINY, rows):
            rows[:] = _divergence(a.view(-1, width), b.view(-1, width)).numpy()
        row += len(rows)

    def part(start: int, stop: int, out: Any) -> Any:
        plain = isinstance(out, np.ndarray)
        out = torch.empty(stop - start) if out is None else out
        with stacked(2, stop - start, plain=plain) as (a, b):
            first.part(start, stop, a), second.part(start, stop, b)
            return out if native.weighed(a, b, found, width, start, out) else out.copy_(_importance(a, b, found, width, start))

    importance = in_slices(shape, part, plain=is_plain(first) and is_plain(second))
    high, middle, low = map(np.float32, largest(importance, [n - int(np.float32(q) * np.float32(n - 1)) for q in reversed(QUARTILES)]))
    return _Plan(found, width, float(middle + np.float32(1.5) * (high - low)))


def _combine(at: At, stack: Any, coefs: Sequence[float], plan: Any) -> Any:
    first, second = stack
    unweighted("arcee_fusion", coefs)
    if native.chosen(first, second, plan.divergence, plan.width, at.start, plan.least):
        return first
    importance = _importance(first, second, plan.divergence, plan.width, at.start)
    return torch.where(importance >= plan.least, second, first)


def _importance(first: Tensor, second: Tensor, divergence: NDArray[np.float32], width: int, start: int) -> Tensor:
    """Of the entries of a flat tensor from `start` on."""
    rows = torch.arange(start, start + len(first)) // width
    return (second - first).abs() * torch.from_numpy(divergence)[rows].to(first.device)


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """(rows, n) of both experts -> (rows,). By rounding alone it would be below 0."""
    p, q = second.softmax(-1) + TINY, first.softmax(-1) + TINY
    return (p * (p / q).log()).sum(-1).clamp_(min=0)
