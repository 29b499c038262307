"""Kinds: the ways in which the change of one tensor is stored, all read the same way.

Every kind is frozen and has `shape`, `dense()` (the change in full, float32), `part(start, stop)` (the flat slice [start, stop)
of it, float32, the caller's to overwrite, bit for bit what `dense()` has there) and `scaled(c)`. All but `New` are added to a
tensor of the base; `New` is a tensor that the base does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from metier.delta import compiled, golomb, native, sums
from metier.delta.shape import Shape
from metier.delta.stored import Mapped
from metier.delta.sums import Sum
from metier.errors import ShapeMismatch, UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from metier.delta.entry import Entry

BLOCK = 1 << 17  # entries of a low-rank product that are formed at once; whole rows, so that slices equal the whole bit for bit


@dataclass(frozen=True, slots=True)
class _Whole:
    value: Tensor

    @property
    def shape(self) -> Shape:
        """Shape of the tensor."""
        return self.value.shape

    def dense(self) -> Tensor:
        """All of it, float32."""
        return self.value.float()

    def part(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Slice [start, stop) of it, flat, float32, in `out` where it is given."""
        return floats(self.value.reshape(-1)[start:stop], out)

    def scaled(self, c: float) -> Self:
        """c times it."""
        return type(self)(self.value.float() * c)


@dataclass(frozen=True, slots=True)
class Dense(_Whole):
    """A change for every entry. value: S, the shape of the base's tensor."""


@dataclass(frozen=True, slots=True)
class New(_Whole):
    """A tensor the base does not have; added to nothing, so its value is the tensor itself."""


@dataclass(frozen=True, slots=True)
class Between:
    """tuned - base, formed when it is read: what `diff` of two stored checkpoints holds. base, tuned: S, any types, read or not yet.

    floats  gives a slice of the base as float32, where several changes of one base are read together; the slice is not to be changed
    """

    base: Tensor | Mapped
    tuned: Tensor | Mapped
    floats: Callable[[int, int], Tensor] | None = None

    @property
    def shape(self) -> Shape:
        """Shape of both tensors."""
        return self.tuned.shape

    @property
    def sum(self) -> Sum | None:
        """The bits of both tensors, where the loops can read them; see `Sum`."""
        if not (isinstance(self.base, Mapped) and isinstance(self.tuned, Mapped)) or compiled.loops() is None:
            return None
        base, tuned = self.base.words, self.tuned.words
        return None if base is None or tuned is None else Sum(base, (tuned,))

    def dense(self) -> Tensor:
        """The change in full, float32."""
        return self.part(0, self.shape.numel()).view(self.shape)  # type: ignore[no-any-return]

    def part(self, start: int, stop: int, out: Any = None) -> Any:
        """Slice [start, stop) of the flat change, float32, in `out` where it is given."""
        if isinstance(out, np.ndarray) and (terms := self.sum) is not None:
            return sums.summed(terms, start, stop, out)
        base, tuned = (read(t).reshape(-1)[start:stop] for t in (self.base, self.tuned))
        out = torch.empty(stop - start, device=tuned.device) if out is None else out
        if native.between(base, tuned, out):
            return out
        return out.copy_(tuned).sub_(self.floats(start, stop) if self.floats else base.float())

    def sampled(self, step: int, length: int) -> NDArray[np.float32] | None:
        """Magnitudes in runs of `length`, one in every `step` entries, (runs, length); None where they cannot be had quickly."""
        if (found := self.sum) is not None:
            return native.sampled(found.base, found.tuned[0], step, length)
        return native.sampled(read(self.base).reshape(-1), read(self.tuned).reshape(-1), step, length)

    def scaled(self, c: float) -> Dense:
        """c times the change."""
        return Dense(self.dense() * c)


@dataclass(frozen=True, slots=True)
class Sparse:
    """A change of few entries. indices: (nnz,) int64, flat, ascending, unique; values: (nnz,); shape: S."""

    indices: Tensor
    values: Tensor
    shape: Shape

    def dense(self) -> Tensor:
        """The change in full, float32."""
        full = torch.zeros(self.shape.numel(), dtype=torch.float32, device=self.values.device)
        full[self.indices] = self.values.float()
        return full.view(self.shape)

    def part(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Slice [start, stop) of the flat change, float32, in `out` where it is given."""
        out = torch.empty(stop - start, device=self.values.device) if out is None else out
        first, last = torch.searchsorted(self.indices, torch.tensor([start, stop], device=self.indices.device)).tolist()
        return out.zero_().index_put_((self.indices[first:last] - start,), self.values[first:last].float())

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
    def shape(self) -> Shape:
        """Shape of the base's tensor."""
        return Shape((self.up.shape[0], self.down.shape[1]))

    def dense(self) -> Tensor:
        """The change in full, float32."""
        return self.part(0, self.shape.numel()).view(self.shape)

    def part(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Slice [start, stop) of the flat change, float32, in `out` where it is given."""
        out = torch.empty(stop - start, device=self.up.device) if out is None else out
        width = self.shape[1]
        if stop <= start or width == 0:
            return out
        rows, down = max(1, BLOCK // width), self.down.float()
        for row in range(start // width // rows * rows, -(-stop // width), rows):
            block = (self.scale * (self.up[row : row + rows].float() @ down)).view(-1)
            first, last = max(start, row * width), min(stop, row * width + len(block))
            out[first - start : last - start] = block[first - row * width : last - row * width]
        return out

    def scaled(self, c: float) -> LowRank:
        """c times the change; stays low-rank."""
        return LowRank(self.up, self.down, self.scale * c)


@dataclass(frozen=True, slots=True)
class Packed:
    """A ternary change: scale * sign at few positions. code: uint8, see `golomb`; signs: uint8, one bit each, 1 = positive.

    count  how many entries are not zero
    rice   parameter of the code: how many low bits of a gap are written plainly
    """

    code: Tensor
    signs: Tensor
    count: int
    rice: int
    scale: float
    shape: Shape

    @classmethod
    def of(cls, indices: Tensor, positive: Tensor, scale: float, shape: Shape) -> Packed:
        """Pack ascending flat indices and their signs. indices: (nnz,) int64; positive: (nnz,) bool."""
        code, rice = golomb.encode(indices.cpu().numpy())
        signs = golomb.bits(positive.cpu().numpy())
        return cls(torch.from_numpy(code), torch.from_numpy(signs), len(indices), rice, float(scale), Shape(shape))

    @property
    def full(self) -> bool:
        """Whether no entry is zero: then there is no code, and slices are read from the signs alone."""
        return self.code.numel() == 0 and self.count == self.shape.numel()

    def sparse(self) -> Sparse:
        """The same change as indices and values. Raises UserError where the code is damaged."""
        indices = torch.from_numpy(golomb.decode(self.code.cpu().numpy(), self.count, self.rice, self.shape.numel()))
        positive = torch.from_numpy(golomb.unbits(self.signs.cpu().numpy(), self.count))
        return Sparse(indices, torch.where(positive, self.scale, -self.scale).float(), self.shape)

    def dense(self) -> Tensor:
        """The change in full, float32."""
        return self.part(0, self.shape.numel()).view(self.shape)

    def part(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Slice [start, stop) of the flat change, float32, in `out` where it is given."""
        if not self.full:
            return self.sparse().part(start, stop, out)
        first = start // 8
        positive = golomb.unbits(self.signs[first : -(-stop // 8)].cpu().numpy(), stop - 8 * first)[start - 8 * first :]
        return floats(torch.from_numpy(positive), out).mul_(2).sub_(1).mul_(self.scale)

    def scaled(self, c: float) -> Packed:
        """c times the change; stays packed."""
        return Packed(self.code, self.signs, self.count, self.rice, self.scale * c, self.shape)


@dataclass(frozen=True, slots=True)
class Ref:
    """scale * an entry of another stored delta. delta: its content hash; name: the entry there; find: gives that entry."""

    delta: str
    name: str
    scale: float
    shape: Shape
    find: Callable[[], Entry] | None = None

    def entry(self) -> Entry:
        """The entry that is meant, scaled. Raises UserError where the other delta is not at hand."""
        if self.find is None:
            raise UserError(
                f"delta: '{self.name}' of the delta {self.delta[:16]} is referred to, and not at hand. Save this delta beside that one and load it."
            )
        found = self.find()
        if tuple(found.shape) != tuple(self.shape):
            raise ShapeMismatch(
                f"delta: '{self.name}' of delta {self.delta[:12]} has shape {tuple(found.shape)}, the reference says {tuple(self.shape)}."
            )
        return found if self.scale == 1.0 else found.scaled(self.scale)

    def dense(self) -> Tensor:
        """The change in full, float32."""
        return self.entry().dense()

    def part(self, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        """Slice [start, stop) of the flat change, float32, in `out` where it is given."""
        return self.entry().part(start, stop, out)

    def scaled(self, c: float) -> Ref:
        """c times the change; stays a reference."""
        return Ref(self.delta, self.name, self.scale * c, self.shape, self.find)


def read(tensor: Tensor | Mapped) -> Tensor:
    """The tensor itself."""
    return tensor.tensor if isinstance(tensor, Mapped) else tensor


def floats(values: Tensor, out: Tensor | None) -> Tensor:
    """The values as float32, copied: to `out` where it is given."""
    return values.to(torch.float32, copy=True) if out is None else out.copy_(values)
