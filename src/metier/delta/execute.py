"""Execute: a merge of checkpoints, slice by slice, from the files to the file, in memory that does not grow with the model.

The merged delta is the lazy one of `merged`; here its slices are read by a few threads, added to the base's, rounded once and
written where they end up. The slices of the base are formed once for all experts.

What is rounded is the float32 value of base + change, to nearest even, once. Where a change nearly takes an entry of the base away, the
sum is small and the error of the change itself, 2^-24 of its size, can show in the last bit of the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from metier import check, cluster
from metier.delta import native
from metier.delta.checkpoint import OUTPUT, Checkpoint
from metier.delta.combine import merged, same, weights
from metier.delta.delta import Delta, added
from metier.delta.entry import SLICE, Entry, grain_of, is_plain, opened, sum_of
from metier.delta.kinds import Between, New, read
from metier.delta.pool import Pool
from metier.delta.scratch import array, place, scratch
from metier.delta.stored import Facts, Mapped, Stored
from metier.delta.transform import Merge
from metier.delta.write import CheckpointWriter, ShardWriter, checkpoint_like
from metier.errors import KeyMismatch, ShapeMismatch, UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

BRAIN = "BF16"
RANGE = 32 * SLICE  # entries of a tensor that one thread takes at a time
ON_DEVICE = 1 << 22  # entries that a device takes at a time: small slices would keep it waiting
SIGNED = {"float32": "int32", "bfloat16": "int16", "float16": "int16"}
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
    recipe: Mapping[str, Any] | None = None, force: bool = False, advance: Callable[[int], None] | None = None, ray: str | None = None,
    device: str = "cpu",
) -> Report:  # fmt: skip
    """Merge and write a checkpoint like `base`. All mismatches are found before anything is written.

    recipe: method, settings and (where they are not checkpoints, whose files are added here) what identifies the experts; a run with
    the same recipe keeps the finished shards of a killed one. Without a recipe none are kept.
    advance: told how many bytes of tensors are done since it was told last, one call at a time, those of kept shards at once.
    ray: the Ray cluster whose workers make the shards, each one with one thread ('auto', 'local', or an address); they read and write
    the same folders as this machine. None: `workers` threads of this process.
    device: where slices are transformed and combined ('cuda'); sums with the base and rounding stay on the CPU.
    Raises UserError, KeyMismatch, ShapeMismatch, BaseMismatch; Failed where a worker dies.
    """
    check.integer("merge: workers", workers, low=1)
    begun, coefs, where = time.perf_counter(), weights(coefs, len(experts)), device_of(device)
    for expert in experts:
        fits(base, expert, full=merge.weights == "full")
    before = {name: _Floats(base, name) for name in base.where}
    if merge.weights == "delta":
        experts = [e.map(lambda name, entry: _shared(entry, before[name])) for e in experts]
    delta = merged(merge, experts, coefs=coefs, device=where)
    once = {} if recipe is not None else {"once": uuid.uuid4().hex}  # what is not named cannot be gone on with
    inputs = {"base": base.stamp(), "experts": [dict(e.provenance) for e in experts]} | once | ({"device": device} if where else {})
    text = json.dumps({"recipe": dict(recipe or {}), "coefs": coefs} | inputs, sort_keys=True, default=str)
    key, tell = hashlib.sha256(text.encode()).hexdigest(), _Telling(advance)
    with _cluster(ray) as there, checkpoint_like(base, out, {"key": key} | json.loads(text), force=force) as writer:
        left = writer.left()
        tell(base.bytes() - sum(map(_bytes, left)))
        work = _Work(delta, before, writer, full=merge.weights == "full", experts=len(experts), step=SLICE if where is None else ON_DEVICE)
        if there is None:
            with Pool(workers) as pool:
                for shard in left:
                    work.make(shard, pool, tell)
        else:
            _spread(there, work, left, tell)
    return Report(Path(out), len(base), base.bytes(), time.perf_counter() - begun, len(base.shards) - len(left), key)


def apply(
    base: Checkpoint, delta: Delta, out: Path, *, workers: int = 2, recipe: Mapping[str, Any] | None = None, force: bool = False,
    advance: Callable[[int], None] | None = None, ray: str | None = None, device: str = "cpu",
) -> Report:  # fmt: skip
    """base + delta as a checkpoint, streamed; see `run`."""
    from metier.delta.parts import total
    from metier.delta.transform import identity

    return run(
        Merge(identity(), total, identity()), base, [delta], out, workers=workers, recipe=recipe, force=force, advance=advance, ray=ray,
        device=device,
    )  # fmt: skip


def fits(base: Checkpoint, delta: Delta, *, full: bool = False) -> None:
    """Raises KeyMismatch or ShapeMismatch naming the tensor where a delta cannot be added to a checkpoint; reads no values."""
    for name in delta:
        if name == OUTPUT and base.tied:
            raise KeyMismatch(f"{base.path}: shares its output layer with '{base.tied}'; a change of '{name}' alone cannot be merged.")
        if name not in base.where:
            what = "is a tensor that the base does not have" if isinstance(delta.entries[name], New) else "is not in the base"
            raise KeyMismatch(f"{base.path}: '{name}' {what}; it cannot be merged. Was the change made from another model?")
        if (shape := tuple(delta.shape(name))) != tuple(base.shape(name)):
            shapes = f"{tuple(base.shape(name))} in {base.where[name].path}, {shape} in the change"
            raise ShapeMismatch(f"merge: '{name}' has shape {shapes}. Was it made from another base?")
        if not base.floating(name):
            raise UserError(f"merge: '{name}' of {base.where[name].path} holds whole numbers; a change cannot be added to them.")
    if full and (lacking := [n for n in base.where if n not in delta and base.floating(n)]):
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
        if getattr(_own, "last", None) == (self, start, stop):
            return _own.values  # type: ignore[no-any-return]
        values = scratch("base", stop - start).copy_(self.base[self.name].reshape(-1)[start:stop])
        if stop - start <= SLICE:
            _own.last, _own.values = (self, start, stop), values
        return values


def _shared(entry: Entry, floats: _Floats) -> Entry:
    """A difference to this very base reads the base through `floats`."""
    if not isinstance(entry, Between) or is_plain(entry) or read(entry.base).data_ptr() != floats.base[floats.name].data_ptr():
        return entry
    return replace(entry, floats=floats)


@dataclass(frozen=True)
class _Work:
    """What shards are made of and where they go; it can be sent to another process, which maps the files again."""

    delta: Delta
    floats: Mapping[str, _Floats]
    writer: CheckpointWriter
    full: bool
    experts: int
    step: int

    def make(self, shard: Stored, pool: Pool, tell: _Telling) -> None:
        """Write one shard."""
        with self.writer.shard(shard) as file:
            _Shard(self, shard, file, pool, tell).run()


def _spread(ray: Any, work: _Work, left: Sequence[Stored], tell: _Telling) -> None:
    """Have the workers of a Ray cluster make the shards that are left."""
    named = [(shard.path.name, f"merge: {shard.path.name}") for shard in left]
    sizes = {shard.path.name: _bytes(shard) for shard in left}
    for name, _ in cluster.spread(ray, _made_there, named, work, "finished shards"):
        tell(sizes[name])
    if unseen := work.writer.left():
        raise UserError(
            f"{work.writer.out}: the workers wrote {unseen[0].path.name} where this machine does not see it. Merge on a disk that all share."
        )


def _made_there(name: str, work: _Work) -> None:
    with Pool(1) as pool:
        work.make(next(s for s in work.writer.like.shards if s.path.name == name), pool, _Telling(None))


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray where an address is given, else None."""
    with contextlib.nullcontext() if address is None else cluster.connected(address) as there:
        yield there


def device_of(name: str) -> torch.device | None:
    """What `device` of `run` means; None: the CPU. Raises UserError where there is no such device."""
    if name == "cpu":
        return None
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise UserError(f"--device {name}: torch has no such device here ({str(error).splitlines()[0]}). Say --device cpu.") from error
    return None if device.type == "cpu" else device


def _bytes(shard: Stored) -> int:
    return sum(f.end - f.begin for f in shard.facts.values())


class _Shard:
    """The tensors of one shard, the largest first; each is cut into ranges when what must be known of it is known."""

    def __init__(self, work: _Work, shard: Stored, file: ShardWriter, pool: Pool, tell: _Telling) -> None:
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
        if terms is not None and not (terms.whole or terms.base is None if full else same(terms.base, before) and not terms.whole):
            terms = None
        for start in range(first, last, step):
            stop = min(start + step, last)
            out = array("rounded", stop - start, np.uint16)
            if terms is not None:
                finite = native.merged(terms, start, stop, out, array("chunks", len(terms.tuned) * native.CHUNK))
            else:
                change = entry.part(start, stop, place(self.work.experts, stop - start, plain=True))
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
                change = entry.part(start, stop, place(self.work.experts, stop - start))
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
        raise UserError(
            f"merge: '{name}' would hold values that are infinite or not numbers. {self._culprit(name)} Nothing was put at the output."
        )

    def _culprit(self, name: str) -> str:
        if not bool(self.shard.tensor(name).isfinite().all()):
            return f"So does the base, {self.shard.path}: it is damaged."
        return "One of the experts is damaged or its training diverged."


def _has_negative_zero(values: Tensor) -> bool:
    """Its bits, read as a signed integer, are the least there are."""
    kind = getattr(torch, SIGNED[str(values.dtype).removeprefix("torch.")])
    return len(values) > 0 and int(values.view(kind).amin()) == torch.iinfo(kind).min
