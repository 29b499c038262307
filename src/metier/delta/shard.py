"""Shard: how the tensors of one file of a merge are formed, slice by slice, by compiled loops or by torch, and written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from metier.delta import native, sums
from metier.delta.delta import added
from metier.delta.entry import SLICE, Entry, grain_of, is_plain, opened, sum_of
from metier.delta.pool import Pool
from metier.delta.scratch import array, place, scratch
from metier.delta.stored import Facts, Mapped, Stored
from metier.delta.sums import same
from metier.delta.transform import slices
from metier.delta.write import ShardWriter
from metier.errors import NotNumbers, UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

    from metier.delta.execute import Work

BRAIN = "BF16"
RANGE = 32 * SLICE  # entries of a tensor that one thread takes at a time
SIGNED = {"float32": "int32", "bfloat16": "int16", "float16": "int16"}


class Shard:
    """The tensors of one shard, the largest first; each is cut into ranges when what must be known of it is known."""

    def __init__(self, work: Work, shard: Stored, file: ShardWriter, pool: Pool, tell: Callable[[int], None]) -> None:
        self.work, self.shard, self.file, self.pool, self.tell = work, shard, file, pool, tell

    def run(self) -> None:
        """All tensors, written."""
        facts = self.shard.facts
        for name in sorted(facts, key=lambda n: -math.prod(facts[n].shape)):
            self.pool.submit(self._tensor, name, facts[name])
        self.pool.wait()

    def _tensor(self, name: str, facts: Facts) -> None:
        entry = self.work.delta.entries.get(name)
        entry = entry if entry is None else opened(entry)  # what must be formed as a whole is, once, and then written in slices
        fill = self._filled if self._plain(name, entry) else self._range
        n, grain = math.prod(facts.shape), grain_of(entry)
        step = grain * max(1, self.work.step // grain)
        for start in range(0, n, many := step * max(1, RANGE // step)):
            self.pool.submit(fill, name, entry, start, min(start + many, n), step, first=True)

    def _plain(self, name: str, entry: Entry | None) -> bool:
        if entry is None or not is_plain(entry) or self.shard.facts[name].kind != BRAIN:
            return False
        return self.work.full or (isinstance(self.shard, Stored) and Mapped(self.shard, name).words is not None)

    def _filled(self, name: str, entry: Entry, first: int, last: int, step: int) -> None:
        """A range of a plain entry, by compiled loops alone: at once where it is a sum of stored tensors."""
        terms, full = sum_of(entry), self.work.full
        before: Any = None if full else Mapped(self.shard, name).words
        if terms is not None and (terms.weights != full or not (full or same(terms.base, before))):
            terms = None
        for start in range(first, last, step):
            stop = min(start + step, last)
            out = array("rounded", stop - start, np.uint16)
            if terms is not None:
                finite = sums.merged(terms, start, stop, out, array("chunks", len(terms.tuned) * sums.CHUNK))
            else:
                change = entry.part(start, stop, place(len(self.work.experts), stop - start, plain=True))
                finite = bool(native.rounded(change, out) if full else native.added(before[start:stop], change, out))
            if not finite:
                return self._range(name, entry, start, last, step)  # which tells what is wrong
            self.file.write(name, start, out)
        self.tell((last - first) * out.itemsize)

    def _range(self, name: str, entry: Entry | None, first: int, last: int, step: int) -> None:
        tensor = self.shard.tensor(name).reshape(-1)
        for start in range(first, last, step):
            stop = min(start + step, last)
            values = tensor[start:stop]
            if entry is not None:
                change = entry.part(start, stop, place(len(self.work.experts), stop - start))
                values = self._rounded(name, change, tensor.dtype) if self.work.full else self._sum(name, values, change, start)
            self.file.write(name, start, values)
        self.tell((last - first) * tensor.dtype.itemsize)

    def _sum(self, name: str, before: Tensor, change: Tensor, start: int) -> Tensor:
        """base + change, formed in float32 (float64 where the base is) and rounded once."""
        out = scratch("rounded", len(before), before.dtype)
        if (finite := native.added(before, change, out)) is not None:
            return out if finite else self._unfit(name, before.dtype, before, change)
        if str(before.dtype).removeprefix("torch.") not in SIGNED or _has_negative_zero(before):
            return self._rounded(name, added(before, change), before.dtype)
        return self._rounded(name, change.add_(self.work.floats[name](start, start + len(change))), before.dtype)

    def _rounded(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        out = values if values.dtype == dtype else scratch("rounded", len(values), dtype)
        if (finite := native.rounded(values, out)) is not None:
            return out if finite else self._unfit(name, dtype, values)
        if not math.isfinite(float(values.sum())) and not bool(values.isfinite().all()):
            self._unfit(name, dtype, values)
        if out is not values and not bool(out.copy_(values).isfinite().all()):
            self._unfit(name, dtype, values)
        return out

    def _unfit(self, name: str, dtype: torch.dtype, *values: Tensor) -> NoReturn:
        if all(bool(v.isfinite().all()) for v in values):
            kind, most = str(dtype).removeprefix("torch."), torch.finfo(dtype).max
            raise UserError(f"merge: '{name}' holds values beyond what {kind} can hold ({most:.6g}). Lower the scale, or merge in float32.")
        text = f"merge: '{name}' would hold values that are infinite or not numbers. {self._culprit(name)} Nothing was put at the output."
        raise NotNumbers(text, name)

    def _culprit(self, name: str) -> str:
        if not bool(self.shard.tensor(name).isfinite().all()):
            return f"So does the base, {self.shard.path}: it is damaged."
        for expert in self.work.experts:
            if name in expert.entries and not all(bool(values.isfinite().all()) for _, values in slices(expert[name])):
                place = expert.source.get("path")
                if place is None:
                    return "So does what is put in: one of the models is damaged, or a factor is too large."
                return f"So does {place}: it is damaged, or its training diverged."
        return "All that is put in is sound, the result goes beyond float32: lower the scale or the coefficients."


def _has_negative_zero(values: Tensor) -> bool:
    """Its bits, read as a signed integer, are the least there are."""
    kind = getattr(torch, SIGNED[str(values.dtype).removeprefix("torch.")])
    return len(values) > 0 and int(values.view(kind).amin()) == torch.iinfo(kind).min
