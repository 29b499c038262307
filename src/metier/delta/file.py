"""Deltas on disk: a folder with `delta.json` (what each tensor's change is) and `delta.safetensors` (its parts, keys 'NAME|PART').

PART is dense | new | indices + values | up + down | code + signs; a reference has none. docs/formats/delta.md has every byte.
`save` streams; `load` reads the headers and checks them, and reads and checks an entry when it is used. `pack` and `unpack` are
the same for those who keep a delta inside a file of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.delta.delta import Delta, Lazy
from metier.delta.entry import SLICE, Entry, Seen, tensors_of
from metier.delta.header import DATA, FORMAT, HEADER, KINDS, NUMBERS, PARTS, check_header, check_parts
from metier.delta.kinds import Between, Dense, LowRank, New, Packed, Ref, Sparse
from metier.delta.shape import Shape
from metier.delta.stored import Stored, layout, parsed, raw
from metier.delta.write import ShardWriter, explained, put_back, renamed
from metier.errors import UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

Take = Callable[[str], "Tensor"]


def save(delta: Delta, folder: Path | str, *, force: bool = False) -> str:
    """Write a delta, tensor by tensor, whole or not at all; its id (SHA-256 of delta.json). Raises UserError where `folder` is there."""
    folder = Path(folder).expanduser().absolute()
    put_back(folder)
    if folder.exists() and not force:
        raise UserError(f"{folder}: is there already. Choose another folder with -o, or say --force to replace it.")
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            digest = _write_data(delta, draft / DATA)
            header = {"format": FORMAT, "base": delta.base, "provenance": dict(delta.provenance), "data": digest}
            text = _json(header | {"entries": {n: _facts(delta.entries[n]) for n in delta}})
            (draft / HEADER).write_bytes(text)
            draft.chmod(0o755)
            renamed(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return hashlib.sha256(text).hexdigest()


def load(folder: Path | str, *, others: Sequence[Path | str] = (), verify: bool = False) -> Delta:
    """A saved delta; entries are read and checked when they are used. Raises UserError where anything is not as it should be.

    others  folders of deltas that this one refers to;  verify  read all data now and compare its SHA-256
    """
    folder = Path(folder).expanduser()
    place = folder / HEADER
    try:
        header = parsed(place, place.read_bytes())
    except OSError as error:
        raise UserError(f"{folder}: not a saved delta ({error}). A delta is a folder with {HEADER} and {DATA}.") from error
    check_header(place, header)
    data = Stored(folder / DATA)
    check_parts(place, header["entries"], data)
    if verify and (found := hashlib.sha256(data.path.read_bytes()).hexdigest()) != header["data"]:
        raise UserError(
            f"{data.path}: has SHA-256 {found[:16]}, the header says {header['data'][:16]}. The file is damaged; copy it again."
        )
    known = {identity(other): other for other in others}
    read = _Reader(data, header["entries"], known)
    shapes = {name: Shape(facts["shape"]) for name, facts in header["entries"].items()}
    return Delta(Lazy(shapes, read, shapes.__getitem__), header["base"], header["provenance"])


def identity(folder: Path | str) -> str:
    """The id of a saved delta: the SHA-256 of its delta.json, which holds that of the data."""
    place = Path(folder).expanduser() / HEADER
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{folder}: not a saved delta ({error}).") from error


def pack(delta: Delta) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors) of a delta, ready for JSON and safetensors."""
    tensors = {k: t.detach().to("cpu").contiguous() for n, e in delta.entries.items() for k, t in tensors_of(n, e).items()}
    header = {n: _facts(e) for n, e in delta.entries.items()}
    return {"entries": header, "base": delta.base, "provenance": dict(delta.provenance)}, tensors


def unpack(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Delta:
    """The delta of a (header, tensors) pair. Raises UserError on missing, surplus or misshapen tensors, and on values that are not numbers."""
    entries: dict[str, Entry] = {}
    left = set(tensors)

    def take(key: str) -> Tensor:
        if key not in tensors:
            raise UserError(f"delta: the header names '{key}', the tensor file lacks it. The file is damaged; make it again.")
        left.discard(key)
        return tensors[key]

    for name, facts in header["entries"].items():
        entries[name] = entry_of(name, facts, take)
    if left:
        raise UserError(f"delta: the tensor file holds {len(left)} tensors that the header does not name, the first '{sorted(left)[0]}'.")
    return Delta(entries, header["base"], header["provenance"])


def entry_of(
    name: str, facts: Mapping[str, Any], take: Take, find: Callable[[str, str], Callable[[], Entry] | None] | None = None
) -> Entry:
    """The entry of a header's facts, its tensors from `take`, all checked. Raises UserError naming the tensor."""
    if facts["kind"] not in PARTS:
        raise UserError(f"delta: '{name}' has unknown kind {facts['kind']!r}; this version reads {', '.join(PARTS)}.")
    parts = [_finite(f"{name}|{p}", take(f"{name}|{p}")) for p in PARTS[facts["kind"]]]
    entry = _built(name, facts, parts, find)
    if list(entry.shape) != list(facts["shape"]):
        raise UserError(f"delta: '{name}' has shape {list(entry.shape)}, its header says {facts['shape']}. The file is damaged.")
    return entry


class _Reader:
    """Reads an entry when it is used; what was checked once is not checked again."""

    def __init__(self, data: Stored, entries: Mapping[str, Any], others: Mapping[str, Path | str]) -> None:
        self.data, self.entries, self.others = data, entries, others
        self.checked: set[str] = set()

    def __call__(self, name: str) -> Entry:
        try:
            if name in self.checked:
                return _built(
                    name, self.entries[name], [self.data.tensor(f"{name}|{p}") for p in PARTS[self.entries[name]["kind"]]], self.find
                )
            entry = entry_of(name, self.entries[name], self.data.tensor, self.find)
            if isinstance(entry, Packed) and not entry.full:
                entry.sparse()  # the code is checked by being read
        except UserError as error:
            raise UserError(f"{self.data.path}: {error}") from error
        self.checked.add(name)
        return entry

    def find(self, delta: str, name: str) -> Callable[[], Entry] | None:
        """What gives the entry of another delta; None where that one is not at hand."""
        return (lambda: load(self.others[delta])[name]) if delta in self.others else None


def _built(
    name: str, facts: Mapping[str, Any], parts: list[Tensor], find: Callable[[str, str], Callable[[], Entry] | None] | None
) -> Entry:
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


def _finite(key: str, values: Tensor) -> Tensor:
    if values.dtype.is_floating_point:
        for part in values.reshape(-1).split(SLICE):
            if not math.isfinite(float(part.float().sum())) and not bool(part.float().isfinite().all()):
                raise UserError(
                    f"delta: '{key}' holds values that are infinite or not numbers. The file is damaged or its training diverged; make it again."
                )
    return values


def _facts(entry: Entry) -> dict[str, Any]:
    kind = KINDS[type(entry)]
    return {"kind": kind, "shape": list(entry.shape)} | {k: getattr(entry, k) for k in NUMBERS.get(kind, ())}


def _tensors(name: str, entry: Entry) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """(key, type, shape) of what an entry stores, without forming it."""
    if isinstance(entry, Between | Seen):
        return [(f"{name}|dense", torch.float32, tuple(entry.shape))]
    return [(k, t.dtype, tuple(t.shape)) for k, t in tensors_of(name, entry).items()]


def _write_data(delta: Delta, place: Path) -> str:
    """Write the tensors in the order of names; the SHA-256 of the file."""
    head, facts = layout([t for name in sorted(delta) for t in _tensors(name, delta.entries[name])])
    digest, writer = hashlib.sha256(head), ShardWriter(place, head, facts)
    try:
        for name in sorted(delta):
            entry = delta.entries[name]
            formed = isinstance(entry, Between) or (isinstance(entry, Seen) and entry.part_of is not None)
            for key, tensor in ({f"{name}|dense": None} if formed else tensors_of(name, entry)).items():
                n = math.prod(facts[key].shape)
                flat = None if tensor is None else tensor.detach().to("cpu").contiguous().reshape(-1)
                for start in range(0, n, SLICE):
                    stop = min(start + SLICE, n)
                    values = entry.part(start, stop) if flat is None else flat[start:stop]
                    writer.write(key, start, values)
                    digest.update(raw(values))
        writer.finish()
    finally:
        writer.close()
    return digest.hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
    """One line for every field, and for every tensor: small models have much header for few bytes of change."""
    dump = partial(json.dumps, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)
    try:
        entries = (f"  {dump(name)}: {dump(facts)}" for name, facts in sorted(value["entries"].items()))
        fields = {key: dump(field) for key, field in value.items()} | {"entries": "{\n" + ",\n".join(entries) + "\n }"}
    except ValueError as error:
        raise UserError(f"delta: its provenance or a scale holds a number that is infinite or not a number ({error}).") from error
    return ("{\n" + ",\n".join(f" {dump(key)}: {fields[key]}" for key in sorted(fields)) + "\n}\n").encode()
