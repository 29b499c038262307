"""Entry: the change of one tensor, stored in one of the kinds or computed when it is read, and how it is read slice by slice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metier.delta.held import Held
from metier.delta.kinds import Between, Dense, LowRank, New, Packed, Ref, Sparse, floats
from metier.delta.pool import one_thread
from metier.delta.shape import Shape
from metier.delta.stored import Mapped
from metier.delta.sums import Sum
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

SLICE = 1 << 18  # entries of a tensor that are worked on at once: 1 MiB of float32; less, and the calls cost more than the work

PartOf = Callable[[int, int, Any], Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """A change as a transform shows it, computed when it is read.

    part_of  (start, stop, out) -> flat slice; None: whole only
    grain    slices that begin at multiples of it and have its length are the cheapest
    plain    slices may be asked for in numpy arrays, and are then formed without torch
    sum      where the change is a sum of stored tensors: their bits, for loops that do all of it at once
    stored   the tensor of a file that it is, where it is one
    """

    shape: Shape
    whole: Callable[[], Tensor]
    part_of: PartOf | None = None
    grain: int = SLICE
    plain: bool = False
    sum: Sum | None = None
    stored: Mapped | None = None

    def dense(self) -> Tensor:
        """The change in full, float32. What is whole only is formed by one thread: decompositions by more differ in their last bits."""
        with one_thread() if self.part_of is None else contextlib.nullcontext():
            return self.whole()

    def part(self, start: int, stop: int, out: Any = None) -> Any:
        """Slice [start, stop) of the flat change, float32, in `out` where it is given."""
        if self.part_of is not None:
            return self.part_of(start, stop, out)
        return floats(self.dense().reshape(-1)[start:stop], out)

    def scaled(self, c: float) -> Dense:
        """c times the change."""
        return Dense(self.dense() * c)


Entry = Dense | Between | Sparse | LowRank | Packed | Ref | Seen | New


def is_plain(entry: Entry) -> bool:
    """Whether the entry's slices can be had in numpy arrays, without torch."""
    return entry.plain if isinstance(entry, Seen) else sum_of(entry) is not None


def sum_of(entry: Entry) -> Sum | None:
    """The entry as a sum of stored tensors, where it is one."""
    return entry.sum if isinstance(entry, Between | Seen) else None


def opened(entry: Entry) -> Entry:
    """The entry in a form whose slices are cheap: references resolved, codes decoded, what is whole only formed once, at the first slice."""
    match entry:
        case Ref():
            return opened(entry.entry())
        case Packed() if not entry.full:
            return entry.sparse()
        case Seen() if entry.part_of is None:
            held = Held(entry.dense, entry.shape.numel())
            return Seen(entry.shape, lambda: held().view(entry.shape), lambda start, stop, out: floats(held()[start:stop], out))
        case _:
            return entry


def filled(entry: Entry, start: int, stop: int) -> Tensor:
    """Slice [start, stop) of an opened entry, put together of small ones, whose scratch is small too."""
    out, step = torch.empty(stop - start), grain_of(entry)
    for first in range(start // step * step, stop, step):
        a, b = max(start, first), min(stop, first + step)
        entry.part(a, b, out[a - start : b - start])
    return out


def grain_of(entry: Entry | None) -> int:
    """How many entries of a tensor are best worked on at once."""
    return entry.grain if isinstance(entry, Seen) else SLICE


def tensors_of(name: str, entry: Entry) -> dict[str, Tensor]:
    """The entry's tensors under the keys of the file format; what is only computed when read is formed here."""
    match entry:
        case Dense(value):
            return {f"{name}|dense": value}
        case Between() | Seen():
            return {f"{name}|dense": entry.dense()}
        case New(value):
            return {f"{name}|new": value}
        case Sparse(indices, values, _):
            return {f"{name}|indices": indices, f"{name}|values": values}
        case LowRank(up, down, _):
            return {f"{name}|up": up, f"{name}|down": down}
        case Packed(code, signs):
            return {f"{name}|code": code, f"{name}|signs": signs}
        case Ref():
            return {}
