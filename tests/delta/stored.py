"""Stored deltas for tests: one of every kind, one that refers to it, and hands that change what is stored and make its hashes fit again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metier.delta import Delta, Dense, LowRank, New, Packed, Ref, Sparse
from metier.delta.header import PARTS

S = torch.Size
ZEROS = b"0" * 64


def example() -> Delta:
    return Delta(
        {
            "a": Dense(torch.tensor([1.0, -2.0]).bfloat16()),
            "b": Sparse(torch.tensor([1, 3]), torch.tensor([0.5, -0.5]), S((2, 2))),
            "c": LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]]), 0.5),
            "d": New(torch.tensor(7)),
            "e": Packed.of(torch.tensor([0, 5, 6]), torch.tensor([True, False, True]), 0.25, S((8,))),
            "f": Dense(torch.empty(0, 3)),
        },
        "feed",
        {"method": "by hand"},
    )


def referring(key: str) -> Delta:
    """A delta with references to the one of `example`, whose id is `key`, and a change of its own."""
    entries = {"a": Ref(key, "a", 3.0, S((2,))), "c": Ref(key, "c", -1.0, S((2, 2))), "x": Dense(torch.ones(1))}
    return Delta(entries, "feed", {"method": "by hand"})


def same(a: Delta, b: Delta) -> None:
    """Both hold the same kinds and values, bit for bit."""
    assert list(a) == sorted(b) and a.base == b.base and a.provenance == b.provenance
    for name in a:
        assert type(a[name]) is type(b[name]) and torch.equal(a[name].dense(), b[name].dense()), name


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, values: bool = True) -> None:
    """Change the table of delta.json; its hash fits again (values: those of the data too)."""
    place = folder / "delta.json"
    found = json.loads(place.read_text())
    change(found)
    place.write_text(json.dumps(found))
    seal(folder, values=values)


def edit_data(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the header of delta.safetensors; all hashes fit again."""
    place = folder / "delta.safetensors"
    content = place.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    change(table)
    text = json.dumps(table).encode()
    place.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
    seal(folder)


def spoilt(folder: Path, old: float, new: float) -> None:
    """Put another number in the place of one in the data, as no `save` does; all hashes fit again."""
    place = folder / "delta.safetensors"
    place.write_bytes(place.read_bytes().replace(struct.pack("<f", old), struct.pack("<f", new)))
    seal(folder)


def seal(folder: Path, *, values: bool = True) -> None:
    """Make the hashes fit what is there, as one would who means harm; those stay as they are whose bytes cannot be found."""
    place, broken = folder / "delta.json", (ValueError, TypeError, KeyError, AttributeError, RecursionError)
    with contextlib.suppress(*broken):
        found = json.loads(place.read_text())
        if values:
            with contextlib.suppress(*broken):
                _seal_values(found, (folder / "delta.safetensors").read_bytes())
        text = json.dumps(found | {"check": "0" * 64}).encode()
        place.write_bytes(text.replace(ZEROS, hashlib.sha256(text).hexdigest().encode(), 1))


def _seal_values(found: dict[str, Any], content: bytes) -> None:
    start = 8 + int.from_bytes(content[:8], "little")
    found["head"] = hashlib.sha256(content[:start]).hexdigest()
    table = json.loads(content[8:start])
    for name, said in found["entries"].items():
        places = [table[f"{name}|{p}"]["data_offsets"] for p in PARTS[said["kind"]] if f"{name}|{p}" in table]
        if "sha256" in said:
            said["sha256"] = hashlib.sha256(b"".join(content[start + begin : start + end] for begin, end in places)).hexdigest()
