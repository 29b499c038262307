"""Delta: the difference between tuned and base weights, tensor by tensor, with a small algebra.

A delta maps names of a model's state dict to changes. `Dense`, `Sparse` and `LowRank` are added to a base tensor;
`New` is a tensor the base does not have (a classification head). Values are stored in any float type; arithmetic is
done in float32 and rounded once, to the base's type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch


@dataclass(frozen=True, slots=True)
class Dense:
    """A change for every entry. value: S, the shape of the base's tensor."""

    value: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of the base's tensor."""
        return self.value.shape

    def dense(self) -> Tensor:
        """The change in full, float32."""
        return self.value.float()

    def scaled(self, c: float) -> Dense:
        """c times the change."""
        return Dense(self.value.float() * c)


@dataclass(frozen=True, slots=True)
class New:
    """A tensor the base does not have; added to nothing, so its value is the tensor itself."""

    value: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return self.value.shape

    def dense(self) -> Tensor:
        """The tensor, float32."""
        return self.value.float()

    def scaled(self, c: float) -> New:
        """c times the tensor."""
        return New(self.value.float() * c)


@dataclass(frozen=True, slots=True)
class Sparse:
    """A change of few entries. indices: (nnz,) int64, flat, ascending, unique; values: (nnz,); shape: S."""

    indices: Tensor
    values: Tensor
    shape: torch.Size

    def dense(self) -> Tensor:
        """The change in full, float32."""
        full = torch.zeros(self.shape.numel(), dtype=torch.float32, device=self.values.device)
        full[self.indices] = self.values.float()
        return full.view(self.shape)

    def scaled(self, c: float) -> Sparse:
        """c times the change."""
        return Sparse(self.indices, self.values.float() * c, self.shape)

    @classmethod
    def of(cls, value: Tensor) -> Sparse:
        """The non-zero entries of a dense change."""
        flat = value.reshape(-1)
        indices = flat.nonzero().squeeze(1)
        return cls(indices, flat[indices].clone(), value.shape)


@dataclass(frozen=True, slots=True)
class LowRank:
    """scale * up @ down. up: (out, r); down: (r, in); shape (out, in)."""

    up: Tensor
    down: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> torch.Size:
        """Shape of the base's tensor."""
        return torch.Size((self.up.shape[0], self.down.shape[1]))

    def dense(self) -> Tensor:
        """The change in full, float32."""
        return self.scale * (self.up.float() @ self.down.float())

    def scaled(self, c: float) -> LowRank:
        """c times the change; stays low-rank."""
        return LowRank(self.up, self.down, self.scale * c)


Entry = Dense | Sparse | LowRank | New


@dataclass(frozen=True)
class Delta:
    """Name -> change, against the base known by its fingerprint ('' where none is known)."""

    entries: Mapping[str, Entry]
    base: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __mul__(self, c: float) -> Delta:
        return self.map(lambda _, entry: entry.scaled(float(c)))

    __rmul__ = __mul__

    def __neg__(self) -> Delta:
        return self * -1.0

    def __sub__(self, other: Delta) -> Delta:
        return self + -other

    def __add__(self, other: Delta) -> Delta:
        if self.base and other.base and self.base != other.base:
            raise BaseMismatch(f"delta: cannot add changes of two bases ({self.base[:12]} and {other.base[:12]}).")
        entries = dict(self.entries)
        for name, entry in other.entries.items():
            entries[name] = _sum(name, entries[name], entry) if name in entries else entry
        return Delta(entries, self.base or other.base, {"sum": [dict(self.provenance), dict(other.provenance)]})

    def map(self, change: Callable[[str, Entry], Entry]) -> Delta:
        """A delta with every entry replaced."""
        return Delta({n: change(n, e) for n, e in self.entries.items()}, self.base, self.provenance)

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
        change = entry.dense().to(base.device)
        exact = torch.promote_types(base.dtype, torch.float32)
        return torch.where(change == 0, base, (base.to(exact) + change).to(base.dtype))  # -0.0 + 0.0 would be 0.0

    def apply(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """base + delta as a new state dict; tensors without a change are shared, none is modified."""
        return {**weights, **{n: self.new_value(n, weights.get(n)) for n in self.entries}}


def diff(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], *, fingerprint: str = "") -> Delta:
    """tuned - base: a dense change for every tensor that differs, `New` for those the base lacks. Equal tensors are left out."""
    entries: dict[str, Entry] = {}
    for name, value in tuned.items():
        if name not in base:
            entries[name] = New(value.clone())
        elif base[name].shape != value.shape:
            raise ShapeMismatch(f"diff: '{name}' has shape {tuple(base[name].shape)} in the base, {tuple(value.shape)} in the tuned model.")
        elif not torch.equal(base[name], value):
            entries[name] = Dense(value.float() - base[name].float())
    if missing := set(base) - set(tuned):
        raise KeyMismatch(f"diff: the tuned model lacks {len(missing)} tensors of the base, the first '{sorted(missing)[0]}'.")
    return Delta(entries, fingerprint)


def tensors_of(name: str, entry: Entry) -> dict[str, Tensor]:
    """The entry's tensors under the keys of the file format."""
    match entry:
        case Dense(value):
            return {f"{name}|dense": value}
        case New(value):
            return {f"{name}|new": value}
        case Sparse(indices, values, _):
            return {f"{name}|indices": indices, f"{name}|values": values}
        case LowRank(up, down, _):
            return {f"{name}|up": up, f"{name}|down": down}


def _sum(name: str, a: Entry, b: Entry) -> Entry:
    if tuple(a.shape) != tuple(b.shape):
        raise ShapeMismatch(f"delta: cannot add changes of '{name}' with shapes {tuple(a.shape)} and {tuple(b.shape)}.")
    if isinstance(a, New) or isinstance(b, New):
        raise KeyMismatch(f"delta: '{name}' is a new tensor in one of the changes; new tensors cannot be added.")
    if isinstance(a, LowRank) and isinstance(b, LowRank):
        return LowRank(torch.cat([a.scale * a.up.float(), b.scale * b.up.float()], 1), torch.cat([a.down.float(), b.down.float()], 0))
    if isinstance(a, Sparse) and isinstance(b, Sparse):
        return Sparse.of(a.dense() + b.dense())
    return Dense(a.dense() + b.dense())
