"""Deltas on disk: round trip, golden files, references."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.delta.stored import example, referring, same, spoilt

from metier.delta import Delta, Dense, LowRank, Packed, Ref, load, save
from metier.delta.reader import identity
from metier.delta.stored import Stored
from metier.errors import UserError

GOLDEN = (
    Path(__file__).parent / "golden"
)  # one delta of every kind, one of references; they stay as they are for as long as the format has its number


def test_round_trip(tmp_path: Path) -> None:
    key = save(example(), tmp_path / "d")
    assert key == identity(tmp_path / "d")
    same(load(tmp_path / "d"), example())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]
    with pytest.raises(UserError, match="is there already"):
        save(example(), tmp_path / "d")
    save(example() * 2.0, tmp_path / "d", force=True)
    assert load(tmp_path / "d")["e"].scale == 0.5


def test_golden_files(tmp_path: Path) -> None:
    """What is written is what the golden files hold, byte for byte; what they hold is read."""
    key = save(example(), tmp_path / "kinds")
    save(referring(key), tmp_path / "reference")
    for folder in ("kinds", "reference"):
        for name in ("delta.json", "delta.safetensors"):
            assert (tmp_path / folder / name).read_bytes() == (GOLDEN / folder / name).read_bytes(), (folder, name)
    same(load(GOLDEN / "kinds"), example())
    values = {n: e.dense().tolist() for n, e in load(GOLDEN / "reference").entries.items()}
    assert values == {"a": [3.0, -6.0], "c": [[-1.5, -2.0], [-3.0, -4.0]], "x": [1.0]}


@pytest.mark.parametrize("n", [1, 8, 37])
def test_signs_for_every_entry(tmp_path: Path, n: int) -> None:
    """A packed change without zeros is read from its signs, slice by slice."""
    positive = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
    save(Delta({"x": Packed.of(torch.arange(n), positive, 0.5, torch.Size((n,)))}), tmp_path / "d")
    entry = load(tmp_path / "d")["x"]
    want = torch.where(positive, 0.5, -0.5)
    assert isinstance(entry, Packed) and entry.full and entry.code.numel() == 0 and torch.equal(entry.sparse().dense(), want)
    for start in range(n + 1):
        for stop in range(start, n + 1):
            assert torch.equal(entry.part(start, stop), want[start:stop])


def test_shapes_are_known_without_reading(tmp_path: Path) -> None:
    save(Delta({"x": Dense(torch.ones(2, 3))}), tmp_path / "d")
    spoilt(tmp_path / "d", 1.0, float("nan"))
    delta = load(tmp_path / "d")
    assert delta.shape("x") == (2, 3)
    with pytest.raises(UserError, match="not numbers"):
        delta["x"]


def test_references(tmp_path: Path) -> None:
    """The delta that is meant is found by its id: beside the folder, whatever its name, or among `others`."""
    key = save(example(), tmp_path / "here/d")
    save(example() * 2.0, tmp_path / "here/another")
    save(referring(key), tmp_path / "here/r")
    save(referring(key), tmp_path / "far/r")
    for found in (load(tmp_path / "here/r"), load(tmp_path / "far/r", others=[tmp_path / "here/another", tmp_path / "here/d"])):
        assert found["a"].dense().tolist() == [3.0, -6.0] and (2 * found)["a"].dense().tolist() == [6.0, -12.0]
        assert type((found + found)["c"]) is LowRank and (found + found)["c"].dense().tolist() == [[-3.0, -4.0], [-6.0, -8.0]]
    with pytest.raises(
        UserError, match=rf"'a' refers to the delta {key[:16]} .*none of the 0 deltas looked at: .*far/\*\. Put its folder beside"
    ):
        load(tmp_path / "far/r")
    with pytest.raises(UserError, match="is referred to, and not at hand"):
        referring(key)["a"].dense()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("d", "a", (3,)), r"'x' of shape \[3\] refers to 'a' .* which is of kind dense and shape \[2\]"),
        (("d", "zzz", (2,)), "refers to 'zzz' .*/d, which is not there"),
        (("d", "d", ()), "which is of kind new"),
        (("r", "a", (2,)), "which is of kind ref"),
    ],
)
def test_references_that_cannot_be(tmp_path: Path, entry: tuple[str, str, tuple[int, ...]], message: str) -> None:
    keys = {"d": save(example(), tmp_path / "d")}
    keys["r"] = save(referring(keys["d"]), tmp_path / "r")
    folder, name, shape = entry
    save(Delta({"x": Ref(keys[folder], name, 1.0, torch.Size(shape))}), tmp_path / "q")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "q")


def test_a_reference_to_damaged_values(tmp_path: Path) -> None:
    save(referring(save(example(), tmp_path / "d")), tmp_path / "r")
    place = tmp_path / "d/delta.safetensors"
    content = bytearray(place.read_bytes())
    content[Stored(place).start] ^= 1
    place.write_bytes(content)
    with pytest.raises(UserError, match=r"d/delta.safetensors: delta: 'a' is not what was written"):
        load(tmp_path / "r")["a"].dense()
