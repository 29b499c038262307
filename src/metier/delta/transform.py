"""Transforms: functions from deltas to deltas that compose, and merges made of them.

A `Transform` is a pair of pure functions: `prepare` looks at a whole delta once (thresholds, norms, ranks), `apply` changes one
tensor, float32 in and out. Where a tensor's entries can be changed slice by slice, `part` says how, and memory stays bounded by
the slice. `chain` prepares every stage on a lazy view of the one before. A `Merge` is a transform for each expert, a combination
of one tensor of all experts, and a transform of the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from metier.delta.delta import Delta, Lazy
from metier.delta.entry import SLICE, Entry, PartOf, Seen, filled, grain_of, is_plain, opened, sum_of
from metier.delta.kinds import New
from metier.delta.pool import one_thread
from metier.delta.record import record
from metier.delta.shape import Shape
from metier.delta.sums import Step
from metier.errors import UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class At(NamedTuple):
    """Where a slice is: the tensor's name and shape, and the flat position the slice begins at."""

    name: str
    start: int
    shape: Shape


Part = Callable[[Any, At, Any], Any]  # slices are tensors; of a plain transform also numpy arrays


class Transform(NamedTuple):
    """prepare: Delta -> state, one pass. apply: (state, name, tensor) -> tensor, pure.

    part   (state, at, values) -> values: `apply` for a flat slice; `values` is its own to overwrite. None: whole tensors only
    local  a tensor's state depends on that tensor alone, so that `prepare` may be given one tensor at a time;
           states are then dicts by name
    rows   `part` is to be given whole rows, along the last axis
    plain  `prepare` and `part` go without torch where a change can be read without: slices are numpy arrays then
    factor where all that it does is to multiply: by what
    step   (state, at, stop, part of) -> what it does to a slice, where compiled loops can do it
    """

    prepare: Callable[[Delta], Any]
    apply: Callable[[Any, str, Tensor], Tensor]
    part: Part | None = None
    local: bool = False
    rows: bool = False
    plain: bool = False
    factor: float | None = None
    step: Callable[[Any, At, int, PartOf], Step] | None = None


def elementwise(
    prepare: Callable[[Delta], Any], part: Part, *, local: bool = False, rows: bool = False, plain: bool = False,
    factor: float | None = None, step: Callable[[Any, At, int, PartOf], Step] | None = None,
) -> Transform:  # fmt: skip
    """A transform given by what it does to a slice, of whole rows where it asks for them."""

    def apply(state: Any, name: str, tensor: Tensor) -> Tensor:
        return part(state, At(name, 0, tensor.shape), tensor.reshape(-1).clone()).view(tensor.shape)

    return Transform(prepare, apply, part, local, rows, plain, factor, step)


def identity() -> Transform:
    """Changes nothing."""
    return elementwise(_nothing, lambda _, at, values: values, local=True, plain=True, factor=1.0)


def per_tensor(change: Callable[[Tensor], Tensor]) -> Transform:
    """A pure function of one whole tensor, float32 in and out."""
    return Transform(_nothing, lambda _, name, tensor: change(tensor), local=True)


def chain(*stages: Transform) -> Transform:
    """The stages one after another."""

    def prepare(delta: Delta) -> list[Any]:
        states: list[Any] = []
        for stage in stages:
            states.append(stage.prepare(delta))
            delta = view(stage, states[-1], delta)
        return states

    def apply(states: list[Any], name: str, tensor: Tensor) -> Tensor:
        for stage, state in zip(stages, states, strict=True):
            tensor = stage.apply(state, name, tensor)
        return tensor

    def part(states: list[Any], at: At, values: Tensor) -> Tensor:
        for stage, state in zip(stages, states, strict=True):
            values = stage.part(state, at, values)  # type: ignore[misc]
        return values

    sliced = all(s.part is not None for s in stages)
    local, rows, plain = all(s.local for s in stages), any(s.rows for s in stages), all(s.plain for s in stages)
    return Transform(prepare, apply, part if sliced else None, local, rows, plain)


def masked(inner: Transform, where: Callable[[str], bool]) -> Transform:
    """`inner` on the tensors whose name `where` accepts (True = transformed); the others stay as they are."""
    return partition({"in": inner, "out": identity()}, lambda name: "in" if where(name) else "out")


def partition(transforms: Mapping[str, Transform], label: Callable[[str], str] | Mapping[str, str]) -> Transform:
    """A transform for each group of tensors. label: a function from name to group, or {pattern: group}, the first match counts.

    Raises UserError for a tensor that gets no group or an unknown one.
    """
    group = _labeller(transforms, label)

    def prepare(delta: Delta) -> dict[str, Any]:
        return {g: t.prepare(delta.only([n for n in delta if group(n) == g])) for g, t in transforms.items()}

    def apply(states: dict[str, Any], name: str, tensor: Tensor) -> Tensor:
        return transforms[group(name)].apply(states[group(name)], name, tensor)

    def part(states: dict[str, Any], at: At, values: Tensor) -> Tensor:
        return transforms[group(at.name)].part(states[group(at.name)], at, values)  # type: ignore[misc]

    sliced = all(t.part is not None for t in transforms.values())
    parts = transforms.values()
    return Transform(prepare, apply, part if sliced else None, all(t.local for t in parts), any(t.rows for t in parts))


def view(transform: Transform, state: Any, delta: Delta) -> Delta:
    """The transformed delta, computed tensor by tensor (or slice by slice) when it is read. New tensors pass unchanged."""
    return replace(delta, entries=Lazy(delta, lambda name: seen(transform, state, name, delta.entries[name]), delta.shape))


def seen(transform: Transform, state: Any, name: str, entry: Entry, device: torch.device | None = None) -> Entry:
    """One entry of `view`. device: where slices are worked on, and stay unless `out` is elsewhere (None: where they are)."""
    part = transform.part
    if isinstance(entry, New):
        return entry
    if part is None:
        return Seen(entry.shape, lambda: transform.apply(state, name, entry.dense().to(device)).cpu())
    source = opened(entry)

    def sliced(start: int, stop: int, out: Any) -> Any:
        values = source.part(start, stop, out) if device is None else source.part(start, stop).to(device)
        values = part(state, At(name, start, source.shape), values)
        return values if out is None or values is out else out.copy_(values)

    simply = transform.plain and device is None and is_plain(source)
    if transform.rows:
        found = in_rows(source.shape, sliced, plain=simply)
    else:
        found = in_slices(source.shape, sliced, grain_of(source), plain=simply)
    if not simply or (terms := sum_of(source)) is None:
        return found
    if transform.factor is not None:
        return replace(found, sum=terms.times(transform.factor))
    if (step := transform.step) is None or not terms.single:
        return found
    return replace(found, sum=terms._replace(steps=(lambda start, stop: step(state, At(name, start, source.shape), stop, source.part),)))


def in_slices(shape: Shape, part: PartOf, grain: int = SLICE, *, plain: bool = False) -> Seen:
    """An entry given by its slices."""
    found = Seen(shape, lambda: filled(found, 0, shape.numel()).view(shape), part, grain, plain)
    return found


def in_rows(shape: Shape, part: PartOf, *, plain: bool = False) -> Seen:
    """An entry given by its slices of whole rows: a slice is cut from blocks of rows that are the same whatever is asked for.

    Blocks are formed by one thread, since sums along a row differ in their last bits between one and more.
    """
    width, n = shape[-1] if shape else 1, shape.numel()
    grain = max(1, SLICE // max(1, width)) * max(1, width)

    def sliced(start: int, stop: int, out: Any) -> Any:
        if isinstance(out, np.ndarray):
            return cut(start, stop, out)
        with one_thread():
            return cut(start, stop, out)

    def cut(start: int, stop: int, out: Any) -> Any:
        if start % grain == 0 and stop == min(start + grain, n):
            return part(start, stop, out)
        if start == stop:
            return torch.empty(0) if out is None else out
        for first in range(start // grain * grain, stop, grain):
            last = min(first + grain, n)
            block = part(first, last, np.empty(last - first, np.float32) if isinstance(out, np.ndarray) else None)
            out = block.new_empty(stop - start) if out is None else out
            a, b = max(start, first), min(stop, last)
            out[a - start : b - start] = block[a - first : b - first]
        return out

    return in_slices(shape, sliced, grain, plain=plain)


def transformed(transform: Transform, delta: Delta, **told: Any) -> Delta:
    """The delta after the transform, prepared now, computed when it is read. told: for the record, its method and settings."""
    return view(transform, transform.prepare(delta), delta).made(record("transform", delta.record, **told))


def slices(entry: Entry, size: int = SLICE) -> Iterator[tuple[int, Tensor]]:
    """(start, values) of a change, float32, in order; each slice is the caller's to overwrite."""
    entry, n = opened(entry), entry.shape.numel()
    for start in range(0, n, size):
        yield start, entry.part(start, min(start + size, n))


Combine = Callable[[At, Any, Sequence[float], Any], Any]


class Merge(NamedTuple):
    """A way from several deltas to one.

    each         the transform of every expert's delta
    combine      (at, stack (k, *S), coefs, plan) -> S; the stack is its own to overwrite. Where all is sliced, S is a flat slice (n,)
    then         the transform of the combined delta
    plan         (name, entries after `each`) -> what `combine` must know of the whole tensors of all experts (norms, angles), or None
    elementwise  `combine` may be given slices: it treats each entry by itself, given its plan; or the tensors of which that is so.
                 Of the others it gets a `Formed` for a stack
    rows         slices are to be of whole rows: S is (rows, last axis)
    weights      'delta': experts are changes; 'full': they are the weights themselves (deltas over a zero base), and so is the result
    plain        `combine` and `plan` go without torch where the experts can be read without: the stack is a list of numpy arrays then.
                 A `Total` does so anyway
    """

    each: Transform
    combine: Combine
    then: Transform
    plan: Callable[[str, Sequence[Entry]], Any] | None = None
    elementwise: bool | Callable[[At], bool] = True
    rows: bool = False
    weights: Literal["delta", "full"] = "delta"
    plain: bool = False


class Formed(Sequence["Tensor"]):
    """The experts' tensors, float32, each formed when it is asked for, and again when it is asked for again: no two need be held.

    start, shape: which part of the flat tensor, and how it is seen; coefs: what the tensors are multiplied by.
    """

    def __init__(
        self, views: Sequence[Entry], shape: Shape, coefs: Sequence[float] = (), *, start: int = 0, device: torch.device | None = None
    ) -> None:  # fmt: skip
        self.views, self.shape, self.coefs, self.start, self.device = views, shape, coefs or [1.0] * len(views), start, device

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, i: Any) -> Any:
        if not isinstance(i, int):
            raise TypeError("the tensors of a merge that is not elementwise are formed one at a time: ask for one of them by its number.")
        tensor = filled(self.views[i], self.start, self.start + self.shape.numel()).view(self.shape).to(self.device)
        return tensor if self.coefs[i] == 1 else tensor.mul_(self.coefs[i])

    def times(self, coefs: Sequence[float]) -> Formed:
        """The tensors times their coefficients."""
        return Formed(self.views, self.shape, coefs, start=self.start, device=self.device)

    def inside(self) -> list[Formed]:
        """The same for each index of the first axis."""
        rest = self.shape[1:]
        starts = (self.start + i * rest.numel() for i in range(self.shape[0]))
        return [Formed(self.views, rest, self.coefs, start=s, device=self.device) for s in starts]


def _nothing(delta: Delta) -> None:
    return None


def _labeller(transforms: Mapping[str, Transform], label: Callable[[str], str] | Mapping[str, str]) -> Callable[[str], str]:
    if callable(label):
        find = label
    else:
        patterns = [(re.compile(p), g) for p, g in label.items()]

        def find(name: str) -> str:
            return next((g for p, g in patterns if p.search(name)), "")

    def group(name: str) -> str:
        found = find(name)
        if found not in transforms:
            raise UserError(f"partition: '{name}' belongs to {found!r}, which has no transform; there are {', '.join(sorted(transforms))}.")
        return found

    return group
