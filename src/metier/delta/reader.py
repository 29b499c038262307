"""Reader: the entries of a stored delta, each read and checked when it is used for the first time, its bytes hashed in the same pass."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.delta.entry import SLICE, Entry
from metier.delta.header import DATA, HEADER, PARTS, check_head, check_header, check_parts
from metier.delta.kinds import Dense, LowRank, New, Packed, Ref, Sparse
from metier.delta.shape import Shape
from metier.delta.stored import Stored, parsed, raw
from metier.errors import UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Take = Callable[[str], "Tensor"]
Find = Callable[[str, str], Callable[[], Entry]]
DAMAGED = "is not what was written (its SHA-256 is another): the file is damaged. Copy it again, or make the change again."


class Reader:
    """The folder of one delta: its headers, checked at once; call it for an entry. What was checked once is not checked again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, folder / HEADER
        try:
            text = self.place.read_bytes()
        except OSError as error:
            raise UserError(f"{folder}: not a saved delta ({error}). A delta is a folder with {HEADER} and {DATA}.") from error
        self.header = parsed(self.place, text)
        check_header(self.place, self.header, text)
        self.entries: Mapping[str, Any] = self.header["entries"]
        self.data = Stored(folder / DATA)
        check_head(self.place, self.header["head"], self.data)
        check_parts(self.place, self.entries, self.data)
        self.checked: set[str] = set()
        self.others: dict[str, Reader] = {}

    def __call__(self, name: str) -> Entry:
        facts = self.entries[name]
        try:
            if name in self.checked:
                return _built(name, facts, [self.data.tensor(f"{name}|{p}") for p in PARTS[facts["kind"]]], self.find)
            entry = entry_of(name, facts, self.data.tensor, self.find)
            if isinstance(entry, Packed) and not entry.full:
                entry.sparse()  # the code is checked by being read
        except UserError as error:
            raise UserError(f"{self.data.path}: {error}") from error
        self.checked.add(name)
        return entry

    def find(self, delta: str, name: str) -> Callable[[], Entry]:
        """What gives the entry of another delta."""
        return partial(self.others[delta], name)

    def resolve(self, others: Sequence[Path]) -> None:
        """Find the deltas that are referred to: among `others`, else beside this one's folder. Raises UserError saying where was looked."""
        wanted: dict[str, str] = {}
        for name, facts in self.entries.items():
            if facts["kind"] == "ref":
                wanted.setdefault(facts["delta"], name)
        if not wanted:
            return
        own = self.folder.absolute()
        beside = [p.parent for p in sorted(own.parent.glob(f"*/{HEADER}")) if p.parent != own and not p.parent.name.startswith(".")]
        for folder in (*others, *beside):
            if wanted.keys() > self.others.keys() and (found := identity(folder)) in wanted and found not in self.others:
                self.others[found] = Reader(folder)
        if missing := [d for d in wanted if d not in self.others]:
            raise UserError(
                f"{self.place}: '{wanted[missing[0]]}' refers to the delta {missing[0][:16]} (the SHA-256 of its {HEADER}), which is none of "
                f"the {len(others) + len(beside)} deltas looked at: {', '.join(map(str, (*others, own.parent / '*')))}. Put its folder beside this one's."
            )
        for name, facts in self.entries.items():
            if facts["kind"] == "ref":
                self._check_ref(name, facts)

    def _check_ref(self, name: str, facts: Mapping[str, Any]) -> None:
        other = self.others[facts["delta"]]
        there = other.entries.get(facts["name"])
        if there is None or there["kind"] in ("ref", "new") or there["shape"] != facts["shape"]:
            what = "not there" if there is None else f"of kind {there['kind']} and shape {there['shape']}"
            raise UserError(
                f"{self.place}: '{name}' of shape {facts['shape']} refers to '{facts['name']}' of {other.folder}, which is {what}. "
                "A reference is to a change of its own shape that is stored there. Make the delta again."
            )


def identity(folder: Path | str) -> str:
    """The id of a saved delta: the SHA-256 of its delta.json, which holds those of the data."""
    place = Path(folder).expanduser() / HEADER
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{folder}: not a saved delta ({error}).") from error


def entry_of(name: str, facts: Mapping[str, Any], take: Take, find: Find | None = None) -> Entry:
    """The entry of a header's facts, its tensors from `take`, all checked. Raises UserError naming the tensor."""
    parts = {f"{name}|{p}": take(f"{name}|{p}") for p in PARTS[facts["kind"]]}
    digest = hashlib.sha256() if "sha256" in facts else None
    unfit = [key for key, values in parts.items() if not _finite(values, digest)]
    if digest is not None and digest.hexdigest() != facts["sha256"]:
        raise UserError(f"delta: '{name}' {DAMAGED}")
    if unfit:
        raise UserError(
            f"delta: '{unfit[0]}' holds values that are infinite or not numbers. "
            "The file is damaged or its training diverged; make it again."
        )
    entry = _built(name, facts, list(parts.values()), find)
    if list(entry.shape) != list(facts["shape"]):
        raise UserError(f"delta: '{name}' has shape {list(entry.shape)}, its header says {facts['shape']}. The file is damaged.")
    return entry


def _built(name: str, facts: Mapping[str, Any], parts: list[Tensor], find: Find | None) -> Entry:
    shape = Shape(facts["shape"])
    match facts["kind"]:
        case "dense":
            return Dense(parts[0])
        case "new":
            return New(parts[0])
        case "lowrank":
            return _low_rank(name, parts[0], parts[1], float(facts["scale"]))
        case "sparse":
            return _sparse(name, parts[0], parts[1], shape)
        case "packed":
            return Packed(parts[0], parts[1], facts["count"], facts["rice"], float(facts["scale"]), shape)
        case _:
            return Ref(facts["delta"], facts["name"], float(facts["scale"]), shape, find(facts["delta"], facts["name"]) if find else None)


def _low_rank(name: str, up: Tensor, down: Tensor, scale: float) -> LowRank:
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
        raise UserError(f"delta: '{name}' has factors of shapes {list(up.shape)} and {list(down.shape)}. The file is damaged.")
    return LowRank(up, down, scale)


def _sparse(name: str, indices: Tensor, values: Tensor, shape: Shape) -> Sparse:
    if indices.dtype != torch.int64 or indices.ndim != 1 or indices.shape != values.shape:
        raise UserError(
            f"delta: '{name}' has {list(indices.shape)} indices ({indices.dtype}) for {list(values.shape)} values. The file is damaged."
        )
    rising = bool((indices[1:] > indices[:-1]).all()) if indices.numel() > 1 else True
    inside = indices.numel() == 0 or (int(indices[0]) >= 0 and int(indices[-1]) < shape.numel())
    if not rising or not inside:
        raise UserError(f"delta: '{name}' has indices that do not rise or lie outside its shape. The file is damaged.")
    return Sparse(indices, values, shape)


def _finite(values: Tensor, digest: Any) -> bool:
    """Whether all values are numbers; their bytes go into the digest (None: into none) while they are in the cache."""
    fine = True
    for part in values.reshape(-1).split(SLICE):
        if digest is not None:
            digest.update(raw(part))
        fine = fine and are_numbers(part)
    return fine


def are_numbers(values: Tensor) -> bool:
    """Whether no value is infinite or not a number."""
    return not values.dtype.is_floating_point or math.isfinite(float(values.float().sum())) or bool(values.float().isfinite().all())
