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
from metier.delta.entry import SLICE, Entry, is_plain, sum_of
from metier.delta.parts.span import stacks
from metier.delta.scratch import stacked
from metier.delta.select import largest
from metier.delta.sums import alike
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
    pair = _stored(first, second)
    found = _divergences(first, second, pair, width)

    def part(start: int, stop: int, out: Any) -> Any:
        plain = isinstance(out, np.ndarray)
        if pair is not None and plain:
            native.weighed_stored(native.Pair(pair.base[start:stop], pair.tuned[start:stop]), found, width, start, out)
            return out
        out = torch.empty(stop - start) if out is None else out
        with stacked(2, stop - start, plain=plain) as (a, b):
            first.part(start, stop, a), second.part(start, stop, b)
            return out if native.weighed(a, b, found, width, start, out) else out.copy_(_importance(a, b, found, width, start))

    importance = in_slices(shape, part, plain=is_plain(first) and is_plain(second))
    high, middle, low = map(np.float32, largest(importance, [n - int(np.float32(q) * np.float32(n - 1)) for q in reversed(QUARTILES)]))
    return _Plan(found, width, float(middle + np.float32(1.5) * (high - low)))


def _stored(first: Entry, second: Entry) -> native.Pair | None:
    """The bits of both experts' weights, where they are stored tensors that the loops read."""
    stored = alike([sum_of(first), sum_of(second)])
    return None if stored is None or stored[0].base is not None else native.Pair(*(t.tuned[0] for t in stored))


def _divergences(first: Entry, second: Entry, pair: native.Pair | None, width: int) -> NDArray[np.float32]:
    """Of every row. pair: the bits of both, where they are stored."""
    n, many = first.shape.numel(), width * max(1, SLICE // width)
    found = np.empty(n // width, np.float32)
    if pair is not None:
        for start in range(0, n, many):
            here = native.Pair(pair.base[start : start + many], pair.tuned[start : start + many])
            native.divergence_stored(here, width, TINY, found[start // width : (start + many) // width])
        return found
    for start, (a, b) in zip(range(0, n, many), stacks((first, second), many), strict=True):
        rows = found[start // width : (start + many) // width]
        if not native.divergence(a, b, width, TINY, rows):
            rows[:] = _divergence(a.view(-1, width), b.view(-1, width)).numpy()
    return found


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
