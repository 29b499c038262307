"""Records: the algebra says what was done to what, files are known by their bytes, and large ones are not read for it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from metier.delta import Checkpoint, Delta, Dense, diff, identity, load, merged, record, save, transformed
from metier.delta.combine import Merge
from metier.delta.file import identity as id_of
from metier.delta.parts import total


def stored(place: Path, value: float) -> Delta:
    save(Delta({"w": Dense(torch.full((2, 3), value))}, "b", record.record("diff", papers=[1])), place)
    return load(place)


def test_the_algebra_tells_what_it_did(tmp_path: Path) -> None:
    a, b = stored(tmp_path / "a", 1.0), stored(tmp_path / "b", 2.0)
    assert a.source == {"path": str(tmp_path / "a"), "kind": "delta", "fingerprint": f"sha256:{id_of(tmp_path / 'a')}"}
    opposite = -a
    assert opposite.provenance["operation"] == "scale" and opposite.provenance["settings"] == {"coefs": [-1.0]} and not opposite.source
    assert opposite.provenance["inputs"] == [a.record] and a.record["papers"] == [1], "the original's story is that of the input"
    mixed = 0.5 * (a + 0.5 * b) - b
    assert mixed.provenance["settings"]["coefs"] == [0.5, -0.75] and mixed.provenance["inputs"] == [a.record, b.record]
    assert float(mixed["w"].dense()[0, 0]) == 0.5 * 1 - 0.75 * 2
    doubled = a
    for _ in range(60):
        doubled = doubled + doubled
    assert doubled.provenance["settings"]["coefs"] == [2.0**60] and len(doubled.provenance["inputs"]) == 1
    save(mixed, tmp_path / "c")
    again = load(tmp_path / "c")
    assert again.provenance == mixed.provenance
    assert (2.0 * again).provenance["inputs"] == [again.record], "what was stored is an input as it is"
    assert "metier" in again.provenance["versions"] and "torch" in again.provenance["versions"]


def test_merges_and_transforms_name_their_inputs(tmp_path: Path) -> None:
    a, b = stored(tmp_path / "a", 1.0), stored(tmp_path / "b", 2.0)
    told = merged(Merge(identity(), total, identity()), [a, b], coefs=[1.0, 2.0]).provenance
    assert (told["operation"], told["inputs"], told["settings"]) == ("merge", [a.record, b.record], {"coefs": [1.0, 2.0]})
    changed = transformed(identity(), a, method="lines", settings={"lines": 1.0})
    assert (changed.provenance["method"], changed.provenance["settings"]) == ("lines", {"lines": 1.0})
    assert changed.provenance["operation"] == "transform" and changed.provenance["inputs"] == [a.record] and not changed.source


def test_files_are_known_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, values = tmp_path / "model.safetensors", bytearray(os.urandom(1 << 20))
    place.write_bytes(values)
    size = len(values).to_bytes(8, "little")
    assert record.fingerprint([place]) == f"sha256:{hashlib.sha256(size + values).hexdigest()}"
    monkeypatch.setattr(record, "WHOLE", 1 << 10)
    found, read = record.fingerprint([place]), []
    assert found.startswith("sampled:") and record.fingerprint([place], whole=True).startswith("sha256:")
    pread = os.pread
    monkeypatch.setattr(record.os, "pread", lambda file, count, at: read.append(count) or pread(file, count, at))
    assert record.fingerprint([place]) == found and sum(read) == record.BLOCK * record.BLOCKS < len(values)
    for at in (8, len(values) - 1):
        values[at] ^= 1
        place.write_bytes(values)
        assert record.fingerprint([place]) not in (found, record.fingerprint([place], whole=True))
        values[at] ^= 1


def test_a_difference_of_checkpoints_names_both(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name, value in (("base", 0.0), ("tuned", 1.0)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.full((2, 2), value)}, tmp_path / name / "model.safetensors")
    told = diff(Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "tuned")).provenance
    assert told["operation"] == "diff" and told["base"] == str(tmp_path / "base")
    (one,) = told["inputs"]
    assert one["path"] == str(tmp_path / "tuned") and one["kind"] == "checkpoint" and one["fingerprint"].startswith("sha256:")
