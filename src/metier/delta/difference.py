"""Difference: tuned - base, of state dicts at once, of checkpoints on disk lazily, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metier.delta import compiled, sums
from metier.delta.checkpoint import OUTPUT, Checkpoint, misfit
from metier.delta.combine import combination
from metier.delta.delta import Delta, Lazy
from metier.delta.entry import Entry, Seen, opened, sum_of
from metier.delta.kinds import Between, Dense, New, read
from metier.delta.parts.scale import DEPTH
from metier.delta.parts.total import total
from metier.delta.record import record
from metier.delta.stored import Mapped
from metier.delta.sums import Sum, same
from metier.delta.transform import At, Merge, identity, in_slices
from metier.errors import KeyMismatch, ShapeMismatch, UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

COMPUTED = ("inv_freq", "masked_bias")


def diff(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], *, fingerprint: str = "") -> Delta:
    """tuned - base. Of state dicts: a dense change for every tensor that differs, `New` for those the base lacks.

    Of two checkpoints: every floating tensor, its change formed when it is read. Raises KeyMismatch, ShapeMismatch naming tensor
    and file, and UserError for whole-number tensors that differ: they are not weights that can be added to.
    """
    if isinstance(base, Checkpoint) and isinstance(tuned, Checkpoint):
        return _of_checkpoints(base, tuned, fingerprint)
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
    return Delta(entries, fingerprint, record("diff"))


def full(tuned: Checkpoint) -> Delta:
    """The weights themselves as a delta over a zero base, for merges of kind `weights='full'`."""
    names = [n for n in tuned if tuned.floating(n)]
    return Delta(Lazy(names, lambda name: weights(tuned.mapped(name)), tuned.shape), source=tuned.source())


def weights(tensor: Tensor | Mapped) -> Entry:
    """A stored tensor itself as a change of zero."""
    words = tensor.words if isinstance(tensor, Mapped) and compiled.loops() is not None else None
    if words is None:
        return Dense(read(tensor))
    terms = Sum(None, (words,))

    def part(start: int, stop: int, out: Any) -> Any:
        return sums.summed(terms, start, stop, out) if isinstance(out, np.ndarray) else Dense(read(tensor)).part(start, stop, out)

    return replace(in_slices(tensor.shape, part, plain=True), sum=terms, stored=tensor)  # type: ignore[arg-type]


def difference(base: Entry, tuned: Entry) -> Entry:
    """The change from the one to the other, of whole weights both."""
    stored = [e.value if isinstance(e, Dense) else e.stored if isinstance(e, Seen) else None for e in (base, tuned)]
    if stored[0] is not None and stored[1] is not None:
        return Between(stored[0], stored[1])
    return combined(tuned, base, -1.0)


def combined(first: Entry, second: Entry, factor: float) -> Entry:
    """first + factor * second."""
    views = [opened(first), opened(second)]
    found = combination(Merge(identity(), total, identity()), At("", 0, first.shape), views, [1.0, factor], None)
    change, onto = sum_of(views[0]), sum_of(views[1])
    if not isinstance(found, Seen) or change is None or change.base is None or change.whole or onto is None:
        return found
    there = factor == 1 and onto.base is None and onto.single and same(change.base, onto.tuned[0])  # the change is put onto its base
    return replace(found, sum=change._replace(whole=True)) if there else found


def same_architecture(base: Checkpoint, tuned: Checkpoint) -> None:
    """Raises KeyMismatch, ShapeMismatch or UserError naming tensor and file where `tuned` cannot come from `base`."""
    ours, theirs = base.config.get("architectures"), tuned.config.get("architectures")
    if ours and theirs and ours != theirs:
        raise KeyMismatch(
            f"{tuned.path}: is a {theirs[0]}, the base {base.path} a {ours[0]}. Only models of one architecture can be compared."
        )
    for name in base:
        if name not in tuned:
            raise KeyMismatch(f"{tuned.path}: lacks '{name}' of the base {base.path}. Was it tuned from another base?")
        if base.shape(name) != tuned.shape(name):
            sizes = f"shape {tuple(tuned.shape(name))} in {_file(tuned, name)}, {tuple(base.shape(name))} in {_file(base, name)}"
            raise ShapeMismatch(f"diff: '{name}' has {sizes}. {misfit(name, base.shape(name), tuned.shape(name))}")
        floating = base.floating(name)
        if floating != tuned.floating(name) or (not floating and not torch.equal(base[name], tuned[name])):
            raise UserError(
                f"diff: '{name}' of {_file(tuned, name)} holds whole numbers that differ from the base's; they cannot be added to."
            )


def no_surplus_layers(base: Iterable[str], tuned: Checkpoint, surplus: Iterable[str]) -> None:
    """Raises KeyMismatch where one of the `surplus` tensors of a tuned model is in a layer, of a stack of layers that the base has too.

    Outside of layers it may be a head; what a model computes when it is built (frequencies of rotations) is no weight.
    """
    if not (inside := [n for n in surplus if DEPTH.search(n) and not n.endswith(COMPUTED)]):
        return
    stacks = {_stack(n) for n in base if DEPTH.search(n)}
    for name in inside:
        if any(s.endswith("." + _stack(name)) or ("." + _stack(name)).endswith("." + s) for s in stacks):
            raise KeyMismatch(f"{_file(tuned, name)}: has '{name}', which the base lacks. Is it of another architecture, or size?")


def _stack(name: str) -> str:
    """What comes before a layer's number: 'model.layers'."""
    found = DEPTH.search(name)
    return name[: found.start(1) - 1] if found else ""


def _of_checkpoints(base: Checkpoint, tuned: Checkpoint, fingerprint: str) -> Delta:
    same_architecture(base, tuned)
    _same_ties(base, tuned)
    stored = {n for n in tuned if n not in base}
    no_surplus_layers(base, tuned, stored)
    names = [n for n in base if base.floating(n)] + sorted(stored)

    def entry(name: str) -> Entry:
        return New(tuned[name]) if name in stored else Between(base.mapped(name), tuned.mapped(name))

    provenance = record("diff", tuned.source(), base=str(base.path.absolute()))
    return Delta(Lazy(names, entry, tuned.shape), fingerprint, provenance)


def _same_ties(base: Checkpoint, tuned: Checkpoint) -> None:
    """Raises KeyMismatch where the base shares its output layer with the embedding and the tuned model has another one: it would be lost."""
    if base.tied is None or OUTPUT not in tuned.where or torch.equal(tuned[OUTPUT], tuned[base.tied]):
        return
    raise KeyMismatch(
        f"diff: '{OUTPUT}' of {_file(tuned, OUTPUT)} is a tensor of its own, in the base {base.path} it is '{base.tied}'. Tie it again, or "
        "give a base that stores it (load the base with tie_word_embeddings=False and save it)."
    )


def _file(checkpoint: Checkpoint, name: str) -> Path:
    return checkpoint.where[name].path if name in checkpoint.where else checkpoint.path
