"""Header: what delta.json may say, checked before it is believed, and checked against the data's own header."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metier.delta.entry import Seen
from metier.delta.kinds import Between, Dense, LowRank, New, Packed, Ref, Sparse
from metier.delta.stored import Stored, spread
from metier.errors import UserError
from metier.lazy import torch

FORMAT = 2
HEADER, DATA = "delta.json", "delta.safetensors"
BLANK = "0" * 64  # what delta.json says in the place of its own SHA-256 while that is taken
FORMED = 3 * 4  # bytes that working with an entry takes where it is formed: three times the tensor in float32
KINDS: dict[type, str] = {
    Dense: "dense", Between: "dense", Seen: "dense", New: "new", Sparse: "sparse", LowRank: "lowrank", Packed: "packed", Ref: "ref",
}  # fmt: skip
PARTS = {
    "dense": ("dense",),
    "new": ("new",),
    "sparse": ("indices", "values"),
    "lowrank": ("up", "down"),
    "packed": ("code", "signs"),
    "ref": (),
}
NUMBERS = {"lowrank": ("scale",), "packed": ("count", "rice", "scale"), "ref": ("delta", "name", "scale")}


def check_header(place: Path, header: Mapping[str, Any], text: bytes) -> None:
    """Raises UserError where delta.json, whose bytes are `text`, is damaged or says what cannot be, naming the tensor."""
    wanted = {"format": int, "base": str, "provenance": dict, "check": str, "head": str, "entries": dict}
    if header.get("format") != FORMAT or isinstance(header.get("format"), bool):
        raise UserError(
            f"{place}: has format {header.get('format')!r}; this version reads {FORMAT}. Use the version of metier that wrote it, or make it again."
        )
    if wrong := sorted(k for k, kind in wanted.items() if not isinstance(header.get(k), kind)) or sorted(set(header) - set(wanted)):
        raise UserError(f"{place}: lacks or misstates {', '.join(map(repr, wrong))}. The file is damaged.")
    if not (_hash(header["check"]) and sealed(text.replace(header["check"].encode(), BLANK.encode(), 1)) == text):
        raise UserError(
            f"{place}: is not what was written (its SHA-256 is another): the file is damaged or was edited. Copy or make it again."
        )
    check_entries(place, header["entries"], hashed=True)


def sealed(text: bytes) -> bytes:
    """The text of a delta.json whose `check` is BLANK, with its SHA-256 there."""
    return text.replace(BLANK.encode(), hashlib.sha256(text).hexdigest().encode(), 1)


def check_entries(place: Path | str, entries: Mapping[str, Any], *, hashed: bool) -> None:
    """Raises UserError where the facts of an entry cannot be, naming the tensor. hashed: its SHA-256 is one of them."""
    import psutil  # only where a stored change is read: merges of checkpoints begin without it

    free = psutil.virtual_memory().available
    for name, facts in entries.items():
        _check_facts(place, name, facts, hashed)
        _check_size(place, name, facts, free)


def _check_facts(place: Path | str, name: str, facts: Any, hashed: bool) -> None:
    kind = facts.get("kind") if isinstance(facts, dict) else None
    if not isinstance(kind, str) or kind not in PARTS:
        raise UserError(f"{place}: '{name}' has unknown kind {kind!r}; this version reads {', '.join(PARTS)}.")
    known = ("kind", "shape", *NUMBERS.get(kind, ()), *(("sha256",) if hashed and PARTS[kind] else ()))
    if set(facts) != set(known):
        raise UserError(f"{place}: '{name}' must have {', '.join(known)} and nothing else; got {sorted(facts)}.")
    shape = facts["shape"]
    whole = {"count", "rice"} & set(facts)
    fine = isinstance(shape, list) and all(_count(i) for i in shape) and len(shape) <= 64 and all(_count(facts[k]) for k in whole)
    fine = fine and all(isinstance(facts[k], str) for k in {"delta", "name"} & set(facts)) and _number(facts.get("scale", 0))
    if not fine or not _hash(facts.get("sha256", BLANK)) or spread(shape) >= 1 << 61:
        raise UserError(f"{place}: '{name}' has a shape or a number that cannot be: {facts}. The file is damaged.")


def _check_size(place: Path | str, name: str, facts: Mapping[str, Any], free: int) -> None:
    """Few bytes can stand for a huge tensor, save where they hold every entry; no command is to fail half-way on one."""
    size = FORMED * spread(facts["shape"])
    if facts["kind"] not in ("dense", "new") and size > free:
        raise UserError(
            f"{place}: '{name}' ({facts['kind']}) has shape {facts['shape']}, so that working with it takes {size / 1e9:.3g} GB (three times "
            f"the tensor in float32); {free / 1e9:.3g} GB of memory are free. The file is damaged, or for a machine with more memory."
        )


def check_head(place: Path, head: str, data: Stored) -> None:
    """Raises UserError where the header of the data (types, shapes, places) is not the one that was written."""
    with data.path.open("rb") as file:
        if hashlib.sha256(file.read(data.start)).hexdigest() != head:
            raise UserError(
                f"{data.path}: its header is not the one that {place.name} was written with (its SHA-256 is another): "
                "one of the two is damaged or of another delta. Copy or make it again."
            )


def check_parts(place: Path, entries: Mapping[str, Any], data: Stored) -> None:
    """What both headers say of each tensor must fit. Raises UserError naming the tensor."""
    wanted = {f"{name}|{part}" for name, facts in entries.items() for part in PARTS[facts["kind"]]}
    if lacking := sorted(wanted - set(data.facts)):
        raise UserError(f"{data.path}: lacks '{lacking[0]}', which {HEADER} names. The file is damaged; make it again.")
    if surplus := sorted(set(data.facts) - wanted):
        raise UserError(f"{data.path}: holds {len(surplus)} tensors that {HEADER} does not name, the first '{surplus[0]}'.")
    for name, facts in entries.items():
        parts = [data.facts[f"{name}|{p}"] for p in PARTS[facts["kind"]]]
        shapes, types, shape = [p.shape for p in parts], [p.dtype for p in parts], tuple(facts["shape"])
        match facts["kind"]:
            case "dense" | "new":
                fine = shapes[0] == shape and (types[0].is_floating_point or facts["kind"] == "new")
            case "lowrank":
                fine = len(shape) == len(shapes[0]) == len(shapes[1]) == 2 and shapes[0][1] == shapes[1][0]
                fine = fine and (shapes[0][0], shapes[1][1]) == shape and types[0].is_floating_point and types[1].is_floating_point
            case "sparse":
                fine = len(shapes[0]) == 1 and shapes[0] == shapes[1] and types[0] == torch.int64 and types[1].is_floating_point
                fine = fine and shapes[0][0] <= math.prod(shape)
            case "packed":
                fine = all(len(s) == 1 for s in shapes) and types == [torch.uint8] * 2 and facts["count"] <= math.prod(shape)
                fine = fine and shapes[1][0] == -(-facts["count"] // 8)
            case _:
                fine = True
        if not fine:
            raise UserError(
                f"{place}: '{name}' ({facts['kind']}, shape {list(shape)}) does not fit its data {[list(s) for s in shapes]}, {types}."
            )


def _hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
