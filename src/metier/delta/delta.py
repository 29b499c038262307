"""Delta: the difference between tuned and base weights, tensor by tensor, with a small algebra.

A delta maps names of a model's state dict to entries (`metier.delta.entry`). Values are stored in any float type; arithmetic is
done in float32 and rounded once, to the base's type. Entries may be a `Lazy` mapping, which reads or computes one when it is used;
what is made from a lazy delta is lazy as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from metier.delta import native, record
from metier.delta.entry import Entry, Seen, grain_of, opened, tensors_of
from metier.delta.kinds import Between, Dense, LowRank, New, Packed, Ref, Sparse
from metier.delta.shape import Shape
from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T", "Entry", "Tensor")


class Lazy(Mapping[str, T]):
    """Name -> entry or tensor, read or computed each time it is asked for; nothing is kept. shape: what is known of one without reading it."""

    def __init__(self, names: Iterable[str], read: Callable[[str], T], shape: Callable[[str], Shape] | None = None) -> None:
        self._names, self._shape = dict.fromkeys(names), shape
        self._read: Callable[[str], T] = read

    def shape(self, name: str) -> Shape:
        """The shape of one entry; its values are not read where that can be."""
        return self._shape(name) if self._shape and name in self._names else self[name].shape

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


@dataclass(frozen=True)
class Delta:
    """Name -> change, against the base known by its fingerprint ('' where none is known).

    provenance  how it was made (`metier.delta.record`); source: where it was read from, path, kind and fingerprint (none: nowhere)
    key         what draws are keyed by beside seed and tensor: the position among the experts of a merge, unless given
    """

    entries: Mapping[str, Entry]
    base: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> dict[str, Any]:
        """How it was made and where it was read from: what stands among the inputs of what is made of it."""
        return {**self.provenance, **self.source}

    def made(self, provenance: Mapping[str, Any]) -> Delta:
        """The same entries with another story: what was read is a new change once something was done to it."""
        return replace(self, provenance=provenance, source={})

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __mul__(self, c: float) -> Delta:
        return self.map(lambda _, entry: entry.scaled(float(c))).made(record.scaled(float(c), self.record))

    __rmul__ = __mul__

    def __truediv__(self, c: float) -> Delta:
        return self * (1.0 / c)

    def __neg__(self) -> Delta:
        return self * -1.0

    def __sub__(self, other: Delta) -> Delta:
        return self + -other

    def __add__(self, other: Delta) -> Delta:
        if self.base and other.base and self.base != other.base:
            raise BaseMismatch(f"delta: cannot add changes of two bases ({self.base[:12]} and {other.base[:12]}).")

        def entry(name: str) -> Entry:
            if name not in other.entries:
                return self.entries[name]
            return _sum(name, self.entries[name], other.entries[name]) if name in self.entries else other.entries[name]

        names = dict.fromkeys((*self.entries, *other.entries))
        lazy = isinstance(self.entries, Lazy) or isinstance(other.entries, Lazy)
        entries: Mapping[str, Entry] = Lazy(names, entry) if lazy else {n: entry(n) for n in names}
        return Delta(entries, self.base or other.base, record.added(self.record, other.record))

    def __radd__(self, weights: Mapping[str, Tensor] | int) -> Any:
        """base + delta, see `apply`; 0 + delta is the delta, so that `sum` adds deltas."""
        if isinstance(weights, Mapping):
            return self.apply(weights)
        return self if weights == 0 else NotImplemented

    def map(self, change: Callable[[str, Entry], Entry]) -> Delta:
        """A delta with every entry replaced by one of its shape."""
        if isinstance(self.entries, Lazy):
            old = self.entries
            return replace(self, entries=Lazy(old, lambda n: change(n, old[n]), old.shape))
        return replace(self, entries={n: change(n, e) for n, e in self.entries.items()})

    def only(self, names: Iterable[str]) -> Delta:
        """The part of the delta with these names."""
        return replace(self, entries=Lazy((n for n in names if n in self.entries), self.entries.__getitem__, self.shape))

    def read(self) -> Delta:
        """The same delta with every entry in memory, computed ones formed."""
        return replace(self, entries={n: Dense(e.dense()) if isinstance(e, Between | Seen) else e for n, e in self.entries.items()})

    def shape(self, name: str) -> Shape:
        """The shape of one change; the values of a stored one are not read."""
        return self.entries.shape(name) if isinstance(self.entries, Lazy) else self.entries[name].shape

    def stored_parameters(self) -> int:
        """How many numbers the delta stores (indices not counted)."""
        return sum(t.numel() for n, e in self.entries.items() for k, t in tensors_of(n, e).items() if not k.endswith("|indices"))

    def stored_bytes(self) -> int:
        """Bytes of all stored tensors, indices included."""
        return sum(t.numel() * t.element_size() for n, e in self.entries.items() for t in tensors_of(n, e).values())

    def new_value(self, name: str, base: Tensor | None) -> Tensor:
        """The tuned tensor: base + change, computed in float32 and rounded to the base's type."""
        entry = self.entries[name]
        if isinstance(entry, New):
            return entry.value
        if base is None:
            raise KeyMismatch(f"delta: the base has no tensor '{name}'. Was the change made from another model?")
        if tuple(entry.shape) != tuple(base.shape):
            raise ShapeMismatch(
                f"delta: '{name}' has shape {tuple(base.shape)} in the base, {tuple(entry.shape)} in the delta. Was it made from another base?"
            )
        if base.device.type != "cpu":
            return added(base, entry.dense().to(base.device))
        old, source, step = base.reshape(-1), opened(entry), grain_of(entry)
        new = torch.empty_like(old)
        for start in range(0, len(old), step):
            stop = min(start + step, len(old))
            new[start:stop] = added(old[start:stop], source.part(start, stop))
        return new.view(base.shape)

    def apply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """base + delta as a new state dict; tensors without a change are shared, none is modified."""
        return {**weights, **{n: self.new_value(n, weights.get(n)) for n in self.entries}}


def added(base: Tensor, change: Tensor) -> Tensor:
    """base + change, float32 (float64 where the base is), rounded once to the base's type; a change of 0 leaves an entry as it is."""
    out = torch.empty_like(base)
    if native.added(base, change, out) is not None:
        return out
    exact = torch.float64 if base.dtype == torch.float64 else torch.float32
    return torch.where(change == 0, base, (base.to(exact) + change).to(base.dtype))  # -0.0 + 0.0 would be 0.0


def _sum(name: str, a: Entry, b: Entry) -> Entry:
    a, b = (e.entry() if isinstance(e, Ref) else e for e in (a, b))
    if tuple(a.shape) != tuple(b.shape):
        raise ShapeMismatch(f"delta: cannot add changes of '{name}' with shapes {tuple(a.shape)} and {tuple(b.shape)}.")
    if isinstance(a, New) or isinstance(b, New):
        raise KeyMismatch(f"delta: '{name}' is a new tensor in one of the changes; new tensors cannot be added.")
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        return LowRank(torch.cat([a.scale * a.up.float(), b.scale * b.up.float()], 1), torch.cat([a.down.float(), b.down.float()], 0))
    if isinstance(a, Sparse) and isinstance(b, Sparse):
        return Sparse.of(a.dense() + b.dense())
    if isinstance(a, Packed) and isinstance(b, Packed) and 3 * (a.count + b.count) < a.shape.numel():  # 12 bytes an entry, of dense ones 4
        return _joined(a.sparse(), b.sparse())
    return Dense(a.dense() + b.dense())


def _joined(a: Sparse, b: Sparse) -> Sparse:
    """The sum at the positions where there is one; nothing is formed."""
    at, place = torch.cat([a.indices, b.indices]).unique(return_inverse=True)
    values = torch.zeros(len(at)).index_add_(0, place, torch.cat([a.values.float(), b.values.float()]))
    return Sparse(at[values != 0], values[values != 0], a.shape)
