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
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier import check, cluster
from metier.delta.checkpoint import OUTPUT, Checkpoint, misfit
from metier.delta.combine import merged, weights
from metier.delta.delta import Delta
from metier.delta.entry import SLICE, Entry, is_plain
from metier.delta.kinds import Between, New, read
from metier.delta.pool import Pool
from metier.delta.scratch import scratch
from metier.delta.shard import Shard
from metier.delta.stored import Stored
from metier.delta.transform import Merge
from metier.delta.write import CheckpointWriter, checkpoint_like
from metier.errors import KeyMismatch, ShapeMismatch, UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

ON_DEVICE = 1 << 22  # entries that a device takes at a time: small slices would keep it waiting
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
    inputs = {"base": base.stamp(), "experts": [e.record for e in experts]} | once | ({"device": device} if where else {})
    text = json.dumps({"recipe": dict(recipe or {}), "coefs": coefs} | inputs, sort_keys=True, default=str)
    key, tell = hashlib.sha256(text.encode()).hexdigest(), _Telling(advance)
    with _cluster(ray) as there, checkpoint_like(base, out, {"key": key} | json.loads(text), force=force) as writer:
        left = writer.left()
        tell(base.bytes() - sum(map(_bytes, left)))
        work = Work(delta, before, writer, full=merge.weights == "full", experts=experts, step=SLICE if where is None else ON_DEVICE)
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
            raise ShapeMismatch(f"merge: '{name}' has shape {shapes}. {misfit(name, base.shape(name), shape)}")
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
class Work:
    """What shards are made of and where they go; it can be sent to another process, which maps the files again."""

    delta: Delta
    floats: Mapping[str, _Floats]
    writer: CheckpointWriter
    full: bool
    experts: Sequence[Delta]
    step: int

    def make(self, shard: Stored, pool: Pool, tell: _Telling) -> None:
        """Write one shard."""
        with self.writer.shard(shard) as file:
            Shard(self, shard, file, pool, tell).run()


def _spread(ray: Any, work: Work, left: Sequence[Stored], tell: _Telling) -> None:
    """Have the workers of a Ray cluster make the shards that are left."""
    named = [(shard.path.name, f"merge: {shard.path.name}") for shard in left]
    sizes = {shard.path.name: _bytes(shard) for shard in left}
    for name, _ in cluster.spread(ray, _made_there, named, work, "finished shards"):
        tell(sizes[name])
    if unseen := work.writer.left():
        raise UserError(
            f"{work.writer.out}: the workers wrote {unseen[0].path.name} where this machine does not see it. Merge on a disk that all share."
        )


def _made_there(name: str, work: Work) -> None:
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
