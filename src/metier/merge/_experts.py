"""Experts: a saved delta, specialist, change, PEFT adapter or full checkpoint, each opened as the change of one base."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from metier.delta import Between, Checkpoint, Delta, Lazy, New, diff, load
from metier.delta.checkpoint import misfit
from metier.delta.difference import combined, no_surplus_layers, weights
from metier.delta.entry import Entry
from metier.delta.kinds import read
from metier.delta.record import source
from metier.delta.stored import Mapped
from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch, UserError
from metier.merge import _kin
from metier.merge._adapter import CONFIG as ADAPTER
from metier.merge._adapter import TENSORS, adapter

if TYPE_CHECKING:
    from torch import Tensor

    from metier.model import Base, Specialist, WeightChange
    from metier.task import Task

Missing = Literal["error", "skip"]
KINDS = ("delta.json", "specialist.json", "change.json", ADAPTER)


class Expert(NamedTuple):
    """An expert's change, and the labels of the head it has (none: no head)."""

    delta: Delta
    labels: tuple[str, ...] = ()


def opened(place: str | Path, base: Checkpoint | Base, *, missing: Missing = "error") -> Delta:
    """The change of `base` that is stored at `place`, with the base's names, read when it is used.

    missing: what a full checkpoint that lacks tensors of the base is: an error, or without a change there.
    Raises UserError for a folder of no known kind, BaseMismatch, KeyMismatch and ShapeMismatch for a change of another base.
    """
    return opened_expert(place, base, missing=missing).delta


def opened_expert(place: str | Path, base: Checkpoint | Base, *, missing: Missing = "error") -> Expert:
    """As `opened`, with the labels of the expert's head."""
    place = Path(place).expanduser()
    known = {"delta.json": _delta, "specialist.json": _specialist, "change.json": _change, ADAPTER: _adapter}
    kind = kind_of(place)
    expert = known[kind](place, base) if kind else Expert(_tuned(place, base, missing))
    delta = expert.delta if expert.delta.source else replace(expert.delta, source=source_of(place))
    expert = expert._replace(delta=_named(delta, weights_of_base(base), place))
    if kind in (None, ADAPTER):
        _kin.alike(base, place)
    return expert


def kind_of(place: Path) -> str | None:
    """The file by which a saved change is known; None: a full checkpoint. Raises UserError where there is no such folder."""
    found = next((k for k in KINDS if (place / k).is_file()), None)
    if found is None and not place.exists():
        raise UserError(f"expert {place}: no such folder. Give the folder of a delta, a specialist, a PEFT adapter or a full checkpoint.")
    return found


def source_of(place: str | Path) -> dict[str, Any]:
    """What a record says of a folder or file: path, kind and fingerprint; only the path of what is not there."""
    place = Path(place).expanduser()
    if not place.exists():
        return {"path": str(place)}
    kind = kind_of(place)
    if kind == "delta.json":
        return dict(load(place).source)
    if kind == "specialist.json":
        return source(place, "specialist", sorted(p for p in place.rglob("*") if p.is_file()))
    if kind == "change.json":
        return source(place, "change", [place / "change.json", place / "change.safetensors"])
    if kind == ADAPTER:
        return source(place, "adapter", [place / ADAPTER, place / TENSORS], whole=True)
    if place.is_file() and place.suffix != ".safetensors":
        return source(place, "file", [place])
    return Checkpoint(place).source()


def open_experts(places: Sequence[str], start: Specialist) -> tuple[list[Delta], list[Expert]]:
    """(bodies, experts): the experts, and their changes of what the base has."""
    experts = [opened_expert(place, start.base) for place in places]
    _kin.same_vocabulary(start.base.path, *places)
    return [body(e.delta) for e in experts], experts


def body(delta: Delta) -> Delta:
    """The change without tensors that the base does not have: a head belongs to one expert's task."""
    return delta.only([n for n, e in delta.entries.items() if not isinstance(e, New)])


def with_head(experts: Sequence[Expert], task: Task) -> Expert | None:
    """The first expert whose head names the task's own choices."""
    return next((e for e in experts if e.labels and e.labels == tuple(task.choices or ())), None)


def made_of(delta: Delta, start: Specialist, task: Task, experts: Sequence[Expert]) -> WeightChange:
    """A merged delta as a change of the base, with the head of the expert that has the task's choices."""
    head = with_head(experts, task)
    new = {n: e for n, e in head.delta.entries.items() if isinstance(e, New)} if head else {}
    made = replace(delta.read(), base=start.base.fingerprint)
    from metier.model import WeightChange

    return WeightChange(replace(made, entries={**made.entries, **new}), head.labels if head else ())


def weights_of(delta: Delta, base: Mapping[str, Tensor], names: Iterable[str] | None = None) -> Delta:
    """base + change: the expert's weights as a delta over a zero base, for merges of whole weights. names: all floating ones unless given."""
    stored = base if isinstance(base, Checkpoint) else None
    floating = stored.floating if stored else lambda name: base[name].is_floating_point()
    wanted = [n for n in base if floating(n)] if names is None else list(names)

    def entry(name: str) -> Entry:
        change, before = delta.entries.get(name), stored.mapped(name) if stored else base[name]
        if change is None:
            return weights(before)
        if isinstance(change, Between) and _same(change.base, before):
            return weights(change.tuned)  # as it is stored, not by way of the difference
        return combined(change, weights(before), 1.0)

    return replace(delta, entries=Lazy(wanted, entry), base="")


def _same(a: Tensor | Mapped, b: Tensor | Mapped) -> bool:
    """Whether two tensors are the same memory."""
    if isinstance(a, Mapped) and isinstance(b, Mapped):
        return a == b
    return read(a).data_ptr() == read(b).data_ptr()


def weights_of_model(base: Base) -> dict[str, Tensor]:
    """The model's stored tensors, tied ones once."""
    model, stored = base.model, set(base.model.state_dict())
    return {n: t.data for n, t in (*model.named_parameters(), *model.named_buffers()) if n in stored}


def weights_of_base(base: Checkpoint | Base) -> Mapping[str, Tensor]:
    """Name -> tensor of a base on disk or in memory."""
    return base if isinstance(base, Checkpoint) else weights_of_model(base)


def _delta(place: Path, base: Checkpoint | Base) -> Expert:
    delta = load(place)
    _same_base(place, delta.base, base)
    return Expert(delta)


def _specialist(place: Path, base: Checkpoint | Base) -> Expert:
    try:
        names = json.loads((place / "specialist.json").read_text(encoding="utf-8"))["changes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: not a saved specialist ({error!r}).") from error
    if len(names) != 1:
        raise UserError(f"{place}: this specialist has {len(names)} changes. Only one with a single change, of the weights, can be merged.")
    return _change(place / str(names[0]), base)


def _change(place: Path, base: Checkpoint | Base) -> Expert:
    from metier.model import WeightChange
    from metier.model import change as changes_on_disk

    change = changes_on_disk.load(place)
    if not isinstance(change, WeightChange):
        raise UserError(f"{place}: changes {change.place}, not the weights, so it cannot be merged.")
    _same_base(place, str(json.loads((place / "change.json").read_text(encoding="utf-8"))["base"]), base)
    return Expert(replace(change.delta, provenance={**change.delta.provenance, **change.provenance}), change.labels)


def _adapter(place: Path, base: Checkpoint | Base) -> Expert:
    def model() -> Base:
        from metier.model import load_base

        return load_base(base.path, device="cpu") if isinstance(base, Checkpoint) else base

    return Expert(adapter(place, weights_of_base(base), model, base.tied if isinstance(base, Checkpoint) else _tied(base)))


def _tied(base: Base) -> str | None:
    """The name of the embedding that is the output layer too."""
    ends = base.model.get_input_embeddings(), base.model.get_output_embeddings()
    weights = [getattr(e, "weight", None) for e in ends]
    return next((n for n, p in base.model.named_parameters() if p is weights[0] is weights[1]), None)


def _tuned(place: Path, base: Checkpoint | Base, missing: Missing) -> Delta:
    tuned = Checkpoint(place).plain()
    if isinstance(base, Checkpoint) and missing == "error":
        return replace(diff(base, tuned), provenance={}, source=tuned.source())
    before, names = weights_of_base(base), {}
    found = _matching(tuned, before)
    no_surplus_layers(before, tuned, set(tuned) - set(found.values()))
    for name, tensor in before.items():
        if not tensor.is_floating_point():
            continue
        if name in found:
            names[name] = found[name]
        elif missing == "error":
            raise KeyMismatch(f"{place}: lacks '{name}' of the base. Was it tuned from another base?")
    return Delta(Lazy(names, lambda name: Between(before[name], tuned[names[name]])), source=tuned.source())


def _named(delta: Delta, base: Mapping[str, Tensor], place: Path) -> Delta:
    """The change under the base's names (a prefix such as 'model.' may differ), its shapes checked."""
    old = {n: o for n, o in _matching(base, delta).items() if n is not None}
    names: dict[str, str] = {}
    for name in delta:
        new = name in base or isinstance(delta.entries[name], New)
        if (found := name if new else old.get(name)) is None:
            raise KeyMismatch(f"{place}: changes '{name}', which the base does not have. Was it made from another base?")
        shape = base.shape(found) if isinstance(base, Checkpoint) and found in base else base[found].shape if found in base else None
        differs = shape is not None and tuple(delta.shape(name)) != tuple(shape)
        if differs and not isinstance(delta.entries[name], New):
            shapes = f"{tuple(shape or ())} in the base, {tuple(delta.shape(name))} in the change"
            raise ShapeMismatch(f"{place}: '{name}' has shape {shapes}. {misfit(name, tuple(shape or ()), tuple(delta.shape(name)))}")
        names[found] = name
    return delta if all(n == o for n, o in names.items()) else replace(delta, entries=Lazy(names, lambda n: delta.entries[names[n]]))


def _matching(stored: Iterable[str], wanted: Iterable[str]) -> dict[str, str]:
    """wanted name -> stored name: the same, or the only one that differs by a prefix ('model.' before one of the two)."""
    there = set(stored)
    by_end: dict[str, list[str]] = {}
    for name in there:
        parts = name.split(".")
        for i in range(1, len(parts)):
            by_end.setdefault(".".join(parts[i:]), []).append(name)
    found = {}
    for name in wanted:
        shorter = [s for i in range(1, name.count(".") + 1) if (s := name.split(".", i)[i]) in there]
        choices = [name] if name in there else by_end.get(name, []) or shorter
        if len(choices) == 1:
            found[name] = choices[0]
    return found


def _same_base(place: Path, fingerprint: str, base: Checkpoint | Base) -> None:
    ours = base.fingerprint() if isinstance(base, Checkpoint) else base.fingerprint
    if not fingerprint or fingerprint == ours:
        return
    if isinstance(base, Checkpoint) and fingerprint in _kin.as_loaded(base):
        return  # a specialist of this base in another type
    raise BaseMismatch(f"{place}: made from base {fingerprint[:16]}, not {ours[:16]}. Merge it on the base it was made from.")
