"""Execute: a merge of checkpoints, slice by slice, from the files to the file, in memory that does not grow with the model.

The merged delta is the lazy one of `merged`; here its slices are read by a few threads, added to the base's, rounded once and
written where they end up. The slices of the base are formed once for all experts.

What is rounded is the float32 value of base + change, to nearest even, once. Where a change nearly takes an entry of the base away, the
sum is small and the error of the change itself, 2^-24 of its size, can show in the last bit of the result.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metier import check
from metier.delta.checkpoint import Checkpoint
from metier.delta.combine import merged, weights
from metier.delta.delta import Delta, added
from metier.delta.entry import SLICE, Between, Dense, Entry, New, Seen
from metier.delta.pool import Pool
from metier.delta.scratch import place, scratch
from metier.delta.stored import Facts, Stored
from metier.delta.transform import Merge
from metier.delta.write import ShardWriter, checkpoint_like
from metier.errors import KeyMismatch, ShapeMismatch, UserError

RANGE = 32 * SLICE  # entries of a tensor that one thread takes at a time
SIGNED = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
_own = threading.local()


@dataclass(frozen=True, slots=True)
class Report:
    """What a merge did: where, how many tensors, bytes of output, seconds, shards that an earlier run had finished."""

    out: Path
    tensors: int
    bytes: int
    seconds: float
    kept: int
    recipe: str


def run(
    merge: Merge, base: Checkpoint, experts: Sequence[Delta], out: Path, *, coefs: Sequence[float] | None = None, workers: int = 2,
    recipe: Mapping[str, Any] | None = None, force: bool = False, advance: Callable[[int], None] | None = None,
) -> Report:  # fmt: skip
    """Merge and write a checkpoint like `base`. All mismatches are found before anything is written.

    recipe: method, settings and (where they are not checkpoints, whose files are added here) what identifies the experts; a run with
    the same recipe keeps the finished shards of a killed one. Without a recipe none are kept.
    advance: told how many bytes of tensors are done since it was told last, one call at a time, those of kept shards at once.
    Raises UserError, KeyMismatch, ShapeMismatch, BaseMismatch.
    """
    check.integer("merge: workers", workers, low=1)
    begun, coefs = time.perf_counter(), weights(coefs, len(experts))
    for expert in experts:
        fits(base, expert, full=merge.weights == "full")
    before = {name: _Floats(base, name) for name in base.where}
    if merge.weights == "delta":
        experts = [e.map(lambda name, entry: _shared(entry, before[name])) for e in experts]
    delta = merged(merge, experts, coefs=coefs)
    once = {} if recipe is not None else {"once": uuid.uuid4().hex}  # what is not named cannot be gone on with
    inputs = {"base": base.stamp(), "experts": [dict(e.provenance) for e in experts]} | once
    text = json.dumps({"recipe": dict(recipe or {}), "coefs": coefs} | inputs, sort_keys=True, default=str)
    key, done, tell = hashlib.sha256(text.encode()).hexdigest(), 0, _Telling(advance)
    with checkpoint_like(base, out, {"key": key} | json.loads(text), force=force) as writer, Pool(workers) as pool:
        tell(base.bytes() - sum(writer.left()))
        for shard, file in writer.shards():
            done += 1
            _Shard(delta, before, shard, file, pool, tell, full=merge.weights == "full", experts=len(experts)).run()
    return Report(Path(out), len(base), base.bytes(), time.perf_counter() - begun, len(base.shards) - done, key)


def apply(
    base: Checkpoint, delta: Delta, out: Path, *, workers: int = 2, recipe: Mapping[str, Any] | None = None, force: bool = False,
    advance: Callable[[int], None] | None = None,
) -> Report:  # fmt: skip
    """base + delta as a checkpoint, streamed."""
    from metier.delta.parts import total
    from metier.delta.transform import identity

    return run(Merge(identity(), total, identity()), base, [delta], out, workers=workers, recipe=recipe, force=force, advance=advance)


def fits(base: Checkpoint, delta: Delta, *, full: bool = False) -> None:
    """Raises KeyMismatch or ShapeMismatch naming the tensor where a delta cannot be added to a checkpoint; reads no values."""
    for name in delta:
        if name not in base.where:
            what = "is a tensor that the base does not have" if isinstance(delta.entries[name], New) else "is not in the base"
            raise KeyMismatch(f"{base.path}: '{name}' {what}; it cannot be merged. Was the change made from another model?")
        if (shape := tuple(delta.shape(name))) != tuple(base.shape(name)):
            shapes = f"{tuple(base.shape(name))} in {base.where[name].path}, {shape} in the change"
            raise ShapeMismatch(f"merge: '{name}' has shape {shapes}. Was it made from another base?")
        if not base.dtype(name).is_floating_point:
            raise UserError(f"merge: '{name}' of {base.where[name].path} holds whole numbers; a change cannot be added to them.")
    if full and (lacking := [n for n in base.where if n not in delta and base.dtype(n).is_floating_point]):
        raise KeyMismatch(f"merge: an expert lacks '{lacking[0]}' of the base {base.path}.")


class _Telling:
    """Calls `advance`, if there is one, from one thread at a time."""

    def __init__(self, advance: Callable[[int], None] | None) -> None:
        self.advance, self.lock = advance, threading.Lock()

    def __call__(self, done: int) -> None:
        if self.advance is not None and done:
            with self.lock:
                self.advance(done)


class _Floats:
    """Slices of one tensor of the base as float32; the last one is kept for each thread, since every expert asks for it."""

    def __init__(self, base: Checkpoint, name: str) -> None:
        self.base, self.name = base, name

    def __call__(self, start: int, stop: int) -> Tensor:
        if getattr(_own, "last", None) != (self, start, stop):
            values = self.base[self.name].reshape(-1)[start:stop]
            _own.values = scratch("base", stop - start).copy_(values)
            _own.last = (self, start, stop) if stop - start <= SLICE else None
        return _own.values


def _shared(entry: Entry, floats: _Floats) -> Entry:
    """A difference to this very base reads the base through `floats`."""
    same = isinstance(entry, Between) and entry.base.data_ptr() == floats.base[floats.name].data_ptr()
    return replace(entry, floats=floats) if same else entry  # type: ignore[arg-type]


class _Shard:
    """The tensors of one shard, the largest first; each is cut into ranges when what must be known of it is known."""

    def __init__(
        self, delta: Delta, floats: Mapping[str, _Floats], shard: Stored, file: ShardWriter, pool: Pool, tell: _Telling, *,
        full: bool, experts: int,
    ) -> None:  # fmt: skip
        self.delta, self.floats, self.shard, self.file, self.pool, self.tell = delta, floats, shard, file, pool, tell
        self.full, self.experts = full, experts

    def run(self) -> None:
        """All tensors, written."""
        facts = self.shard.facts
        for name in sorted(facts, key=lambda n: -math.prod(facts[n].shape)):
            self.pool.submit(self._tensor, name, facts[name])
        self.pool.wait()

    def _tensor(self, name: str, facts: Facts) -> None:
        entry = self.delta.entries.get(name)
        if isinstance(entry, Seen) and entry.part_of is None:
            entry = Dense(entry.dense())  # formed once, then written in slices
        n = math.prod(facts.shape)
        for start in range(0, n, RANGE):
            self.pool.submit(self._range, name, entry, start, min(start + RANGE, n), first=True)

    def _range(self, name: str, entry: Entry | None, first: int, last: int) -> None:
        tensor = self.shard.tensor(name).reshape(-1)
        for start in range(first, last, SLICE):
            stop = min(start + SLICE, last)
            values = tensor[start:stop]
            if entry is not None:
                change = entry.part(start, stop, place(self.experts, stop - start))
                values = change if self.full else self._sum(name, values, change, start)
                values = self._rounded(name, values, tensor.dtype)
            self.file.write(name, start, values)
        self.tell((last - first) * tensor.dtype.itemsize)

    def _sum(self, name: str, before: Tensor, change: Tensor, start: int) -> Tensor:
        """base + change in float32; where signs of zero or float64 ask for it, rounded already."""
        if before.dtype not in SIGNED or _has_negative_zero(before):
            return added(before, change)
        return change.add_(self.floats[name](start, start + len(change)))

    def _rounded(self, name: str, values: Tensor, dtype: torch.dtype) -> Tensor:
        if not math.isfinite(float(values.sum())) and not bool(values.isfinite().all()):
            raise UserError(
                f"merge: '{name}' would hold values that are infinite or not numbers. {self._culprit(name)} Nothing was put at the output."
            )
        if values.dtype == dtype:
            return values
        rounded = scratch("rounded", len(values), dtype).copy_(values)
        if dtype == torch.float16 and not bool(rounded.isfinite().all()):
            raise UserError(f"merge: '{name}' holds values beyond what float16 can hold (65504). Lower the scale, or merge in bfloat16.")
        return rounded

    def _culprit(self, name: str) -> str:
        if not bool(self.shard.tensor(name).isfinite().all()):
            return f"So does the base, {self.shard.path}: it is damaged."
        return "One of the experts is damaged or its training diverged."


def _has_negative_zero(values: Tensor) -> bool:
    """Its bits, read as a signed integer, are the least there are."""
    return len(values) > 0 and int(values.view(SIGNED[values.dtype]).amin()) == torch.iinfo(SIGNED[values.dtype]).min
