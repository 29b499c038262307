"""Work: what the command line does with changes: open, check, write, load again and verify, each step once for all verbs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier import cluster, progress
from metier.delta import Checkpoint, Delta, Entry, New, Ref, load, merged, run, save
from metier.delta.combine import same_base
from metier.delta.entry import grain_of
from metier.delta.entry import opened as opened_entry
from metier.delta.execute import apply, device_of, fits
from metier.delta.record import versions
from metier.delta.transform import Merge, in_slices, slices
from metier.errors import UserError
from metier.merge import _verdict
from metier.merge._experts import kind_of, opened
from metier.merge._numbers import naming
from metier.merge._verdict import Verdict
from metier.method import Method

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = 2.0  # seconds of silence at most
ORDINARY = 100_000_000  # bytes that python and its libraries take beside the tensors


@dataclass(frozen=True, slots=True)
class Done:
    """What was written, and what verification says of it (None: it was not asked for)."""

    out: Path
    bytes: int
    verdict: Verdict | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def of(self, what: str) -> Done:
        """The same, told as a change of `what` instead of 'the base'."""
        return self if self.verdict is None else replace(self, verdict=replace(self.verdict, of=what))

    def json(self) -> dict[str, Any]:
        """For JSON."""
        return {"out": str(self.out), "bytes": self.bytes, **self.facts, "verified": self.verdict.facts() if self.verdict else None}


@dataclass(frozen=True, slots=True)
class How:
    """How a result is written: over an older one, verified or not, by how many threads or which Ray cluster, on which device."""

    force: bool = False
    verify: bool = True
    workers: int = 2
    ray: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        device_of(self.device)
        if self.ray is not None:
            cluster.answers(self.ray)

    def on_cpu(self, what: str) -> How:
        """The same, for what does not leave the CPU. Raises UserError where that was asked for."""
        if self.device != "cpu":
            raise UserError(f"--device {self.device}: {what} is computed on the CPU. Leave --device out.")
        return self

    def here(self, what: str) -> How:
        """The same, for what is written by this process alone. Raises UserError where anything else was asked for."""
        if self.ray is not None:
            raise UserError(f"--ray {self.ray}: {what} is written by this process. Leave --ray out.")
        return self.on_cpu(what)

    def written(self) -> dict[str, Any]:
        """What `run` takes of it."""
        return {"force": self.force, "workers": self.workers, "ray": self.ray, "device": self.device}


def open_base(name: str | Path) -> Checkpoint:
    """The base's files, by folder, file or the name of an embedded base."""
    place = Path(name).expanduser()
    if not place.exists():
        from metier.model.loading import load_base

        place = Path(load_base(str(name), device="cpu").path)
    if not place.exists():
        raise UserError(f"base {name}: is not on this machine. Download it first and give its folder.")
    return Checkpoint(place).plain()


def open_change(place: str | Path, base: str | None) -> tuple[Delta, Checkpoint | None]:
    """(the change, its base or None where none is known): a saved delta remembers its base, all else needs `base`."""
    if base is None and (Path(place).expanduser() / "delta.json").is_file():
        delta = load(place)
        remembered = _remembered(delta.provenance)
        if remembered is None or not Path(remembered).exists():
            return delta, None
        base = remembered
    if base is None:
        kind_of(Path(place).expanduser())
        raise UserError(f"{place}: which base does it change? Say --base.")
    found = open_base(base)
    return opened(place, found), found


def open_changes(places: Sequence[str], base: str | None) -> tuple[list[Delta], Checkpoint | None]:
    """Changes of one base, and that base: the one named, or the first that one of them remembers."""
    found = [open_change(p, base) for p in places]
    same_base([d for d, _ in found])
    return [d for d, _ in found], next((b for _, b in found if b is not None), None)


def change_alone(place: str | Path, base: str | None) -> Delta:
    """The change without a look at its base where it is a saved delta and none is named: each of its bytes is read once, when it is used."""
    saved = base is None and (Path(place).expanduser() / "delta.json").is_file()
    return load(place) if saved else open_change(place, base)[0]


def change_and_base(place: str | Path, base: str | None, how: How) -> tuple[Delta, Checkpoint | None]:
    """As `open_change`; the base must be there where the result is to be verified."""
    delta, found = open_change(place, base)
    if found is None and how.verify:
        raise UserError(f"{place}: its base is not where it was, so the result cannot be verified. Say --base, or --no-verify.")
    return delta, found


def keep(delta: Delta, out: Path, base: Checkpoint | None, how: How, **facts: Any) -> Done:
    """Save a change, load it again, and compare what base + change says with the change in memory. It must change something."""
    from metier.merge import _verify

    delta = only_changed(delta).map(lambda _, e: e.entry() if isinstance(e, Ref) else e)  # `out` may be far from what is referred to
    plain = _verify.checkable(base.path) if base is not None and how.verify else None
    told = {**delta.provenance, "versions": versions()} | ({"base": str(base.path.resolve())} if base is not None else {})
    delta = replace(delta, provenance=told, base=delta.base or (base.fingerprint() if base is not None else ""))
    with naming(delta), watching(out, sum(e.shape.numel() * 4 for e in delta.entries.values()), f"writing {out.name}"):
        save(delta, out, force=how.force)
    found = load(out)
    verdict = None
    if plain is not None and base is not None:
        old = replace(delta, entries={n: delta[n] for n in delta if not isinstance(delta[n], New)})
        verdict = _verify.changed(plain, found.only(list(old)), old, base)
    _verdict.store(out, verdict, **facts)
    return Done(out, size_of(out), verdict, facts)


def fold(base: Checkpoint, delta: Delta, out: Path, how: How, *, recipe: Mapping[str, Any]) -> Done:
    """base + change as a checkpoint, verified."""
    return finish(base, delta, out, how, recipe, lambda: apply(base, delta, out, recipe=recipe, **how.written()))


def merge_to(
    merge: Merge, base: Checkpoint, experts: Sequence[Delta], changed: Delta, out: Path, how: How, *, coefs: Sequence[float],
    recipe: Mapping[str, Any],
) -> Done:  # fmt: skip
    """A merge as a checkpoint laid out like `base`, streamed and verified beside the same in memory. changed: the merge as a change.

    experts: changes, or whole weights where the merge works on those.
    """

    def write() -> None:
        run(merge, base, experts, out, coefs=coefs or None, recipe=recipe, **how.written())

    weights = merged(merge, experts, coefs=coefs or None) if merge.weights == "full" else None
    return finish(base, changed, out, how, recipe, write, weights=weights)


def finish(
    base: Checkpoint, delta: Delta, out: Path, how: How, recipe: Mapping[str, Any], write: Callable[[], object], *,
    weights: Delta | None = None,
) -> Done:  # fmt: skip
    """Check all that can be checked, write, load again, compare, and note the verdict."""
    fits(base, delta)
    check = checking(base) if how.verify else None
    if not _verdict.changes(base, delta):
        raise UserError(
            f"{out.name}: the result would be the base, bit for bit: no change reaches it. Look at the inputs with metier delta show."
        )
    with naming(delta), watching(out, base.bytes(), f"writing {out.name}"):
        write()
    expected = _verdict.composed(base, delta) if weights is None else _verdict.replaced(base, weights)
    verdict = check(out, expected) if check is not None else None
    _verdict.store(out, verdict)
    return Done(out, size_of(out), verdict, {"tensors": len(base)})


def checking(base: Checkpoint) -> Callable[[Path, Mapping[str, Tensor]], Verdict]:
    """(output, what it should hold) -> verdict. Raises UserError where the base cannot be loaded."""
    from metier.merge import _verify  # with torch and transformers, which nothing else here may need

    return functools.partial(_verify.written, _verify.checkable(base.path))


def only_changed(delta: Delta) -> Delta:
    """Without entries that are zero. Raises UserError where nothing is left."""
    names = [n for n in delta if isinstance(delta[n], New) or any(bool(values.any()) for _, values in slices(delta[n]))]
    if not names:
        raise UserError("the change is zero everywhere: there is nothing to store. Are both models the same?")
    return delta.only(names)


def check_experts(base: Checkpoint, deltas: Sequence[Delta], places: Sequence[str]) -> None:
    """Raises UserError for an expert that changes nothing; the base itself may be named as one."""
    for delta, place in zip(deltas, places, strict=True):
        fits(base, delta)
        if Path(place).expanduser().resolve() != base.path.resolve() and not _verdict.changes(base, delta):
            raise UserError(f"{place}: changes nothing of the base {base.path}, bit for bit. Is it the right folder?")


def negated(base: Checkpoint, delta: Delta) -> Delta:
    """What takes the change away again."""
    if lacking := [n for n in delta if n not in base]:
        raise UserError(f"unfold: '{lacking[0]}' is not in {base.path}. Was the change folded into it?")

    def turned(_: str, entry: Entry) -> Entry:
        found = opened_entry(entry)
        return in_slices(entry.shape, lambda start, stop, out: found.part(start, stop, out).neg_(), grain_of(found))

    return delta.map(turned)


def plan(base: Checkpoint, places: Sequence[str], out: Path, *, bytes_out: int | None = None) -> dict[str, Any]:
    """What a run would read, write and take, without doing it."""
    for place in places:
        kind_of(Path(place).expanduser())
    read = base.bytes() + sum(size_of(Path(p).expanduser()) for p in places)
    largest = max((base.shape(n).numel() * 4 for n in base), default=0)
    size = base.bytes() if bytes_out is None else bytes_out
    return {
        "out": str(out), "bytes_read": read, "bytes_written": size, "peak_memory": ORDINARY + 3 * largest, "tensors": len(base),
        "there": out.exists(), "shards": [s.path.name for s in base.shards],
    }  # fmt: skip


def function_of(method: Method) -> Callable[..., Merge]:
    """The function that makes a `Merge` of hyperparameters."""
    found: Callable[..., Merge] = getattr(importlib.import_module(method.module), method.function)
    return found


def size_of(place: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    return sum(f.stat().st_size for f in ([place] if place.is_file() else place.rglob("*")) if f.is_file())


@contextlib.contextmanager
def watching(out: Path, total: int, title: str) -> Iterator[None]:
    """A progress bar fed by how much of the draft of `out` is on the disk; its lines begin after PATIENCE."""
    ended, seen = threading.Event(), [0]

    def look() -> None:
        with progress.bar(title, total) as advance:
            while not ended.wait(PATIENCE):
                now = _on_disk(out)
                if now > seen[0]:
                    advance(now - seen[0], f"{now / 1e6:.0f} of {total / 1e6:.0f} MB")
                    seen[0] = now

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _on_disk(out: Path) -> int:
    drafts = [p for p in out.absolute().parent.glob(f".{out.name}*part") if p.is_dir()]
    found = 0
    for draft in drafts:
        with contextlib.suppress(FileNotFoundError):
            found += sum(f.stat().st_blocks * 512 for f in draft.iterdir() if f.is_file())
    return found


def _remembered(provenance: Any) -> str | None:
    """The base's folder that a change's story names, the newest first."""
    if isinstance(provenance, Mapping):
        if isinstance(provenance.get("base"), str):
            return str(provenance["base"])
        provenance = list(provenance.values())
    if isinstance(provenance, list | tuple):
        return next((found for p in provenance if (found := _remembered(p))), None)
    return None
