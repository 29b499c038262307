"""Merging in memory or lazily: the delta that a merge makes of several, each tensor computed when it is read.

The streaming executor reads the very same delta slice by slice, so that a streamed merge equals one in memory bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from metier import check
from metier.delta import native
from metier.delta.delta import Delta, Lazy
from metier.delta.entry import SLICE, Entry, Seen, grain_of, is_plain, opened, sum_of
from metier.delta.kinds import Dense, New
from metier.delta.parts.total import Total
from metier.delta.record import record
from metier.delta.scratch import stacked
from metier.delta.shape import Shape
from metier.delta.sums import Sum, alike
from metier.delta.transform import At, Formed, Merge, Transform, in_rows, in_slices, seen
from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch, UserError
from metier.lazy import torch


def merged(
    merge: Merge, experts: Sequence[Delta], *, coefs: Sequence[float] | None = None, device: torch.device | None = None
) -> Delta:  # fmt: skip
    """The merge of the experts' changes, in the order given, computed when it is read (`.read()` forms all of it).

    coefs: a factor for each expert, 1 unless given. A tensor that an expert does not change counts as a change of zero.
    device: where slices are transformed and combined; what must be known beforehand (thresholds, norms, draws) is found on the CPU.
    Raises UserError where experts or coefs do not fit each other.
    """
    coefs = weights(coefs, len(experts))
    base = same_base(experts)
    experts = [replace(e, key=e.key or str(i)) for i, e in enumerate(experts)]
    names = list(dict.fromkeys(n for e in experts for n in e))
    each = [_States(merge.each, e) for e in experts]
    combined = Delta(Lazy(names, lambda name: _combined(merge, name, experts, each, coefs)), base, key="merged")
    then = _States(merge.then, combined)
    provenance = record("merge", *(e.record for e in experts), settings={"coefs": list(coefs)})

    def entry(name: str) -> Entry:
        one = _combined(merge, name, experts, each, coefs, device)
        return seen(merge.then, then.of(name, one if device is None else combined.entries[name]), name, one, device)

    shape = {n: e for e in reversed(experts) for n in e}  # who tells it: an entry is dear where a plan must be made first
    return Delta(Lazy(names, entry, lambda name: shape[name].shape(name)), base, provenance)


class _States:
    """What a transform prepared: at once for the whole delta, or tensor by tensor where that is enough."""

    def __init__(self, transform: Transform, delta: Delta) -> None:
        self.transform, self.delta = transform, delta
        self.whole = None if transform.local else transform.prepare(delta)

    def of(self, name: str, entry: Entry) -> Any:
        return self.transform.prepare(replace(self.delta, entries={name: entry})) if self.transform.local else self.whole


def weights(coefs: Sequence[float] | None, count: int) -> list[float]:
    """The coefficients, checked: one for each expert, all 1 unless given."""
    if count == 0:
        raise UserError("merge: there is no expert. Name one or more.")
    if coefs is None or len(coefs) == 0:
        return [1.0] * count
    if len(coefs) != count:
        raise UserError(f"merge: {len(coefs)} coefficients for {count} experts. Give one for each, in the same order.")
    return [float(check.number(f"merge: coefficient {i}", c)) for i, c in enumerate(coefs)]


def same_base(experts: Sequence[Delta]) -> str:
    """The fingerprint of the base of all experts. Raises BaseMismatch where there are two."""
    known = list(dict.fromkeys(e.base for e in experts if e.base))
    if len(known) > 1:
        raise BaseMismatch(
            f"merge: the experts come from different bases ({', '.join(b[:12] for b in known)}). Merge those of one base, tuned with one --dtype."
        )
    return known[0] if known else ""


def _combined(
    merge: Merge, name: str, experts: Sequence[Delta], each: Sequence[_States], coefs: Sequence[float], device: torch.device | None = None
) -> Entry:  # fmt: skip
    entries = [e.entries.get(name) for e in experts]
    shape = _shape(name, entries)
    states = [None if e is None else s.of(name, e) for e, s in zip(entries, each, strict=True)]

    def views(where: torch.device | None) -> list[Entry]:
        pairs = zip(entries, states, strict=True)
        return [_zero(shape) if e is None else opened(seen(merge.each, state, name, e, where)) for e, state in pairs]

    here = views(None)
    plan = merge.plan(name, here) if merge.plan else None
    return combination(merge, At(name, 0, shape), here if device is None else views(device), coefs, plan, device)


def combination(
    merge: Merge, at: At, views: Sequence[Entry], coefs: Sequence[float], plan: Any, device: torch.device | None = None
) -> Entry:
    """The experts' changes of one tensor, combined when they are read. views: opened."""
    name, shape, k = at.name, at.shape, len(views)

    def part(start: int, stop: int, out: Any) -> Any:
        with stacked(k, stop - start, device, plain=isinstance(out, np.ndarray)) as stack:
            for view, row in zip(views, stack, strict=True):
                view.part(start, stop, row)
            if isinstance(out, np.ndarray):
                if native.address(result := merge.combine(At(name, start, shape), stack, coefs, plan)) != native.address(out):
                    out[:] = result
                return out
            rows = stack.view(k, -1, shape[-1] if shape else 1) if merge.rows else stack
            result = merge.combine(At(name, start, shape), rows, coefs, plan).reshape(-1)
        if out is None:
            return result.clone()
        return out if result.data_ptr() == out.data_ptr() else out.copy_(result)  # the same where `out` is `place`

    if not (merge.elementwise(at) if callable(merge.elementwise) else merge.elementwise):
        return Seen(shape, lambda: merge.combine(at, Formed(views, shape, device=device), coefs, plan).cpu())
    grain = next((g for g in map(grain_of, views) if g != SLICE), SLICE)  # that of rows, which are dear to cut
    if merge.rows:
        return in_rows(shape, part)
    found = in_slices(shape, part, grain, plain=can_be_plain(merge) and device is None and all(map(is_plain, views)))
    if not isinstance(merge.combine, Total) or not found.plain:
        return found
    return replace(found, sum=_summed(views, merge.combine.factors(coefs, plan), merge.combine.elects))


def can_be_plain(merge: Merge) -> bool:
    """Whether the merge goes without torch where the experts can be read without."""
    return (merge.plain or isinstance(merge.combine, Total)) and merge.elementwise is True and merge.each.plain and merge.then.plain


def _summed(views: Sequence[Entry], factors: Sequence[float], elects: bool) -> Sum | None:
    """The combination as one of stored tensors, where each change is one such tensor and all have one base."""
    if len(views) == 1 and tuple(factors) == (1.0,) and not elects:
        return sum_of(views[0])
    if (terms := alike([sum_of(view) for view in views])) is None:
        return None
    steps = tuple(t.steps[0] if t.steps else None for t in terms)
    return Sum(terms[0].base, tuple(t.tuned[0] for t in terms), tuple(map(float, factors)), None, steps if any(steps) else (), elects)


def _shape(name: str, entries: Sequence[Entry | None]) -> Shape:
    there = [e for e in entries if e is not None]
    if any(isinstance(e, New) for e in there):
        raise KeyMismatch(f"merge: '{name}' is a tensor that the base does not have (a head of its own); such tensors cannot be merged.")
    shapes = list(dict.fromkeys(tuple(e.shape) for e in there))
    if len(shapes) > 1:
        raise ShapeMismatch(
            f"merge: '{name}' has the shapes {', '.join(map(str, shapes))} in different experts. Were they made from one base?"
        )
    return Shape(shapes[0])


def _zero(shape: Shape) -> Entry:
    """No change, stored as one number."""
    return Dense(torch.zeros(()).expand(shape))
