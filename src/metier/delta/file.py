"""Deltas on disk: a folder with `delta.json` (what each tensor's change is) and `delta.safetensors` (its parts, keys 'NAME|PART').

PART is dense | new | indices + values | up + down | code + signs; a reference has none. docs/formats/delta.md has every byte.
`save` streams; `load` reads the headers and checks them, and an entry when it is used (`reader`). `pack` and `unpack` are the same
for those who keep a delta inside a file of their own.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.delta.delta import Delta, Lazy
from metier.delta.entry import SLICE, Entry, Seen, tensors_of
from metier.delta.header import BLANK, DATA, FORMAT, HEADER, KINDS, NUMBERS, check_entries, sealed
from metier.delta.kinds import Between
from metier.delta.place import explained, renamed, vacant
from metier.delta.reader import Reader, are_numbers, entry_of, identity
from metier.delta.shape import Shape
from metier.delta.stored import layout, raw
from metier.delta.write import ShardWriter
from metier.errors import NotNumbers, UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def save(delta: Delta, folder: Path | str, *, force: bool = False) -> str:
    """Write a delta, tensor by tensor, whole or not at all; its id (SHA-256 of delta.json).

    Raises UserError where `vacant` does, NotNumbers where a change is infinite or not a number.
    """
    folder = vacant(folder, force)
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        try:
            head, digests = _write_data(delta, draft / DATA)
            header = {"format": FORMAT, "base": delta.base, "provenance": dict(delta.provenance), "check": BLANK, "head": head}
            text = sealed(_json(header | {"entries": {n: _facts(delta.entries[n]) | digests[n] for n in delta}}))
            (draft / HEADER).write_bytes(text)
            draft.chmod(0o755)
            renamed(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return hashlib.sha256(text).hexdigest()


def load(folder: Path | str, *, others: Sequence[Path | str] = ()) -> Delta:
    """A saved delta. Its headers are checked now, the values and SHA-256 of an entry when it is used for the first time, in one pass.

    others  folders of deltas that this one may refer to; those beside `folder` are looked at as well. Raises UserError where anything
    is not as it should be.
    """
    place = Path(folder).expanduser()
    read = Reader(place)
    read.resolve([Path(other).expanduser() for other in others])
    shapes = {name: Shape(facts["shape"]) for name, facts in read.entries.items()}
    source = {"path": str(place.absolute()), "kind": "delta", "fingerprint": f"sha256:{identity(place)}"}
    return Delta(Lazy(shapes, read, shapes.__getitem__), read.header["base"], read.header["provenance"], source=source)


def pack(delta: Delta) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, tensors) of a delta, ready for JSON and safetensors."""
    tensors = {k: t.detach().to("cpu").contiguous() for n, e in delta.entries.items() for k, t in tensors_of(n, e).items()}
    header = {n: _facts(e) for n, e in delta.entries.items()}
    return {"entries": header, "base": delta.base, "provenance": dict(delta.provenance)}, tensors


def unpack(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Delta:
    """The delta of a (header, tensors) pair. Raises UserError on missing, surplus or misshapen tensors, and on values that are not numbers."""
    check_entries("delta", header["entries"], hashed=False)
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


def _facts(entry: Entry) -> dict[str, Any]:
    kind = KINDS[type(entry)]
    return {"kind": kind, "shape": list(entry.shape)} | {k: getattr(entry, k) for k in NUMBERS.get(kind, ())}


def _tensors(name: str, entry: Entry) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
    """(key, type, shape) of what an entry stores, without forming it."""
    if isinstance(entry, Between | Seen):
        return [(f"{name}|dense", torch.float32, tuple(entry.shape))]
    return [(k, t.dtype, tuple(t.shape)) for k, t in tensors_of(name, entry).items()]


def _write_data(delta: Delta, place: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """Write the tensors in the order of names: the SHA-256 of the file's header, and of each entry's bytes."""
    head, facts = layout([t for name in sorted(delta) for t in _tensors(name, delta.entries[name])])
    digests, writer = {}, ShardWriter(place, head, facts)
    try:
        for name in sorted(delta):
            entry, digest = delta.entries[name], hashlib.sha256()
            formed = isinstance(entry, Between) or (isinstance(entry, Seen) and entry.part_of is not None)
            parts = {f"{name}|dense": None} if formed else tensors_of(name, entry)
            for key, tensor in parts.items():
                n = math.prod(facts[key].shape)
                flat = None if tensor is None else tensor.detach().to("cpu").contiguous().reshape(-1)
                for start in range(0, n, SLICE):
                    stop = min(start + SLICE, n)
                    values = entry.part(start, stop) if flat is None else flat[start:stop]
                    if not are_numbers(values):
                        raise NotNumbers(f"delta: '{name}' holds values that are infinite or not numbers. A model is damaged.", name)
                    writer.write(key, start, values)
                    digest.update(raw(values))
            digests[name] = {"sha256": digest.hexdigest()} if parts else {}
        writer.finish()
    finally:
        writer.close()
    return hashlib.sha256(head).hexdigest(), digests


def _json(value: Mapping[str, Any]) -> bytes:
    """One line for every field, and for every tensor: small models have much header for few bytes of change."""
    dump = partial(json.dumps, sort_keys=True, ensure_ascii=False, allow_nan=False, default=str)
    try:
        entries = (f"  {dump(name)}: {dump(facts)}" for name, facts in sorted(value["entries"].items()))
        fields = {key: dump(field) for key, field in value.items()} | {"entries": "{\n" + ",\n".join(entries) + "\n }"}
    except ValueError as error:
        raise UserError(f"delta: its provenance or a scale holds a number that is infinite or not a number ({error}).") from error
    return ("{\n" + ",\n".join(f" {dump(key)}: {fields[key]}" for key in sorted(fields)) + "\n}\n").encode()
