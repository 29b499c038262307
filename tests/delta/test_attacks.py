"""What a reader of deltas refuses: hand-made attacks on every kind and on both headers, huge shapes, changed bytes, fuzz."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.delta.stored import edit, edit_data, example, referring, same, seal, spoilt

from metier.delta import Checkpoint, Delta, Dense, LowRank, Sparse, load, save
from metier.delta.header import NUMBERS, PARTS
from metier.delta.stored import Stored
from metier.errors import NotNumbers, UserError

S = torch.Size


def read_all(folder: Path) -> Delta:
    return load(folder).read().map(lambda n, e: Dense(e.dense()))


def facts(**changes: Any) -> Any:
    """A change of a delta.json; a key such as a__kind changes one entry's fact."""

    def change(table: dict[str, Any]) -> None:
        for path, value in changes.items():
            where, *rest = path.split("__")
            (table["entries"][where] if rest else table)[rest[0] if rest else where] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "has format 1; this version reads 2"), ({"format": True}, "format True"), ({"base": 3}, "'base'"),
        ({"surplus": 1}, "'surplus'"), ({"head": "0"}, "safetensors: its header is not the one"),
        ({"entries": []}, "'entries'"), ({"a__kind": "wavelet"}, "unknown kind 'wavelet'"), ({"a__kind": ["dense"]}, "unknown kind"),
        ({"a__shape": [3]}, "'a' .* does not fit"), ({"a__shape": [-2]}, "cannot be"), ({"a__shape": [1 << 40, 1 << 40]}, "cannot be"),
        ({"a__shape": "2"}, "cannot be"), ({"a__scale": 1.0}, "must have kind, shape"), ({"b__shape": [1]}, "does not fit"),
        ({"a__sha256": "00"}, "cannot be"), ({"a__sha256": "0" * 64}, "'a' is not what was written"),
        ({"c__scale": "1"}, "cannot be"), ({"c__shape": [2, 3]}, "does not fit"), ({"e__count": -1}, "cannot be"),
        ({"e__count": 9}, "does not fit"), ({"e__shape": [2]}, "does not fit"), ({"e__rice": 70}, "code of positions is damaged"),
        ({"e__rice": 3}, "code of positions is damaged"), ({"b__shape": [2]}, "lie outside its shape"),
        ({"f__shape": [0, 1 << 61]}, "cannot be"), ({"f__shape": [0, 4]}, "does not fit"),
    ],
)  # fmt: skip
def test_headers_that_cannot_be(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save(example(), tmp_path / "d")
    edit(tmp_path / "d", facts(**change), values="head" not in change and "a__sha256" not in change)
    with pytest.raises(UserError, match=message):
        read_all(tmp_path / "d")


HUGE = ([1 << 61], [1 << 60], [512, 1 << 40], [1 << 45], [1 << 31, 1 << 31], [0, 1 << 61], [1 << 30, 0, 1 << 30, 1 << 30])


@pytest.mark.parametrize("shape", HUGE)
@pytest.mark.parametrize("name", ["b", "c", "e", "a"])
def test_few_bytes_that_stand_for_a_huge_tensor(tmp_path: Path, name: str, shape: list[int]) -> None:
    """Sparse, low-rank and packed entries and references are refused at the door, at once, by file, tensor and shape."""
    save(referring(save(example(), tmp_path / "d")), tmp_path / "r")
    folder = tmp_path / ("r" if name == "a" else "d")
    edit(folder, facts(**{f"{name}__shape": shape}))
    begun = time.monotonic()
    with pytest.raises(UserError, match=rf"delta.json: '{name}' .*(cannot be|GB of memory are free)") as seen:
        load(folder)
    assert str(folder) in str(seen.value) and time.monotonic() - begun < 5


def test_factors_of_rank_0(tmp_path: Path) -> None:
    """They take no bytes, whatever the shape."""
    save(Delta({"c": LowRank(torch.zeros(2, 0), torch.zeros(0, 2))}), tmp_path / "d")
    assert load(tmp_path / "d")["c"].dense().tolist() == [[0, 0], [0, 0]]
    wide = 1 << 30
    edit_data(tmp_path / "d", lambda t: (t["c|up"].update(shape=[wide, 0]), t["c|down"].update(shape=[0, wide])))
    edit(tmp_path / "d", facts(c__shape=[wide, wide]))
    with pytest.raises(UserError, match=r"'c' \(lowrank\) has shape \[1073741824, 1073741824\].* GB of memory are free"):
        load(tmp_path / "d")


def test_what_fits_into_memory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is three times the tensor in float32, and does not concern what is stored whole."""
    parts = {"s": Sparse(torch.tensor([3]), torch.ones(1), S((1000,))), "w": Dense(torch.ones(5000))}
    save(Delta(parts), tmp_path / "d")
    free = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=12_000))
    assert load(tmp_path / "d")["s"].dense().sum() == 1
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free._replace(available=11_999))
    with pytest.raises(UserError, match=r"'s' \(sparse\) has shape \[1000\], so that working with it takes 1.2e-05 GB"):
        load(tmp_path / "d")


@pytest.mark.parametrize(
    ("key", "said", "message"),
    [
        ("b|indices", {"dtype": "F64"}, r"'b' \(sparse"), ("b|values", {"dtype": "I32"}, r"'b' \(sparse"), ("a|dense", {"dtype": "I16"}, r"'a' \(dense"),
        ("e|code", {"dtype": "I8"}, r"'e' \(packed"), ("e|signs", {"dtype": "BOOL"}, r"'e' \(packed"), ("c|up", {"dtype": "I32"}, r"'c' \(lowrank"),
        ("c|down", {"shape": [2, 1]}, r"'c' \(lowrank"), ("c|up", {"shape": [1, 2]}, r"'c' \(lowrank"), ("b|values", {"shape": [1, 2]}, r"'b' \(sparse"),
        ("e|signs", {"shape": [1, 1]}, r"'e' \(packed"), ("d|new", {"shape": [1]}, r"'d' \(new"), ("f|dense", {"shape": [3, 0]}, r"'f' \(dense"),
        ("f|dense", {"shape": [0, 1 << 61, 3]}, "the header says of 'f.dense'"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(tmp_path: Path, key: str, said: dict[str, Any], message: str) -> None:
    """Wrong types and shapes that take the same bytes, of every kind."""
    save(example(), tmp_path / "d")
    edit_data(tmp_path / "d", lambda table: table[key].update(said))
    with pytest.raises(UserError, match=message):
        load(tmp_path / "d")


def test_a_part_that_is_missing_or_too_many(tmp_path: Path) -> None:
    for change, message in (
        (lambda t: t.update({"f|up": t.pop("f|dense")}), "lacks 'f.dense', which delta.json names"),
        (lambda t: t.update({"g|dense": t["f|dense"]}), "holds 1 tensors that delta.json does not name, the first 'g.dense'"),
    ):
        save(example(), tmp_path / "d", force=True)
        edit_data(tmp_path / "d", change)
        with pytest.raises(UserError, match=message):
            load(tmp_path / "d")


def test_json_attacks(tmp_path: Path) -> None:
    save(example(), tmp_path / "d")
    place = tmp_path / "d/delta.json"
    text = place.read_text()
    for damaged, message in (
        (text.replace('"a":', '"b":', 1), "'b' occurs twice"), (text.replace("0.25", "NaN"), "NaN is not a number"),
        (text[:-5], "cannot be read"), ("[]", "not a table"), ("[" * 100_000, "cannot be read"), ("\x00", "cannot be read"),
        (text.replace("0.25", "0.26"), "delta.json: is not what was written"), (text.replace("0.25", "1e999"), "is not what was written"),
        (text.replace('"check": "', '"check": "g'), "is not what was written"), (text + "\n", "is not what was written"),
    ):  # fmt: skip
        place.write_text(damaged)
        with pytest.raises(UserError, match=message):
            load(tmp_path / "d")
    place.write_text(text)
    edit(tmp_path / "d", facts(e__scale="1e999"))
    with pytest.raises(UserError, match="'e' has a shape or a number that cannot be"):
        load(tmp_path / "d")


def raw_file(place: Path, table: Any, data: bytes, length: int | None = None) -> Path:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    place.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return place


def said(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("table", "data", "message"),
    [
        ({"a": said()}, b"\0" * 3, "cut short or damaged"), ({"a": said()}, b"\0" * 5, "holds 5 bytes"),
        ({"a": said(), "b": said()}, b"\0" * 4, "overlaps 'a'"), ({"a": said(), "b": said(offsets=(8, 12))}, b"\0" * 12, "gap"),
        ({"a": said("F99")}, b"\0" * 4, "unknown type 'F99'"), ({"a": said("F64")}, b"\0" * 4, "takes 8 bytes"),
        ({"a": said(shape=(1 << 61, 1 << 61))}, b"\0" * 4, "takes"), ({"a": said(shape=(-1,))}, b"\0" * 4, "shape"),
        ({"a": said(offsets=(-4, 0))}, b"\0" * 4, "offsets"), ({"a": said(offsets=(4, 0))}, b"\0" * 4, "its offsets -4"),
        ({"a": said(shape=[True])}, b"\0" * 4, "shape"), ({"a": said(shape=[1.0])}, b"\0" * 4, "shape"), ({"a": 3}, b"", "must have dtype"),
        ({"a": said() | {"x": 1}}, b"\0" * 4, "nothing else"), (b'{"a":1,"a":1}', b"", "'a' occurs twice"), (b"{", b"", "cannot be read"),
        (b"[1]", b"", "is list"), ({"__metadata__": {"a": 1}}, b"", "metadata"), (b"\xff\xfe", b"", "cannot be read"),
    ],
)  # fmt: skip
def test_attacks_on_the_data_file(tmp_path: Path, table: Any, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Stored(raw_file(tmp_path / "x.safetensors", table, data))


@pytest.mark.parametrize("length", [5, 1 << 20, 1 << 63, (1 << 64) - 1])
def test_headers_past_the_end(tmp_path: Path, length: int) -> None:
    with pytest.raises(UserError):
        Stored(raw_file(tmp_path / "x.safetensors", {"a": said()}, b"", length))


def test_empty_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\1\0")
    for bad in (tmp_path / "x.safetensors", tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match=str(bad)):
            Stored(bad)
    with pytest.raises(UserError, match="not a saved delta"):
        load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    changes = {"a": Dense(torch.tensor([1.0, 2.0])), "b": Dense(torch.ones(1))}
    with pytest.raises(NotNumbers, match="'a' holds values that are infinite or not numbers"):
        save(Delta(changes | {"a": Dense(torch.tensor([1.0, value]))}), tmp_path / "d")
    assert not list(tmp_path.iterdir())
    save(Delta(changes), tmp_path / "d")
    spoilt(tmp_path / "d", 2.0, value)
    delta = load(tmp_path / "d")
    assert delta["b"].dense().tolist() == [1.0]
    with pytest.raises(UserError, match=r"delta.safetensors: delta: 'a\|dense' holds values that are infinite or not numbers"):
        delta["a"]


@pytest.mark.parametrize("where", ["length", "header", "first", "last"])
def test_a_change_of_the_data_is_seen(tmp_path: Path, where: str) -> None:
    """One bit of the data file, wherever it is, and the tensor it belongs to."""
    save(example(), tmp_path / "d")
    place = tmp_path / "d/delta.safetensors"
    content = bytearray(place.read_bytes())
    start = Stored(place).start
    at, message = {
        "length": (0, "safetensors: "), "header": (content.index(b"BF16"), "safetensors: "),
        "first": (start, "safetensors: delta: 'a' is not what was written"), "last": (-1, "safetensors: delta: 'e' is not what was written"),
    }[where]  # fmt: skip
    content[at] ^= 4
    place.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_all(tmp_path / "d")


def test_types_of_one_width(tmp_path: Path) -> None:
    """A header that says float16 for bfloat16 fits the data; it is not the one that was written."""
    save(example(), tmp_path / "d")
    place = tmp_path / "d/delta.safetensors"
    place.write_bytes(place.read_bytes().replace(b'"BF16"', b'"F16" '))
    with pytest.raises(UserError, match="safetensors: its header is not the one"):
        load(tmp_path / "d")


def mutated(data: st.DataObject, place: Path) -> bool:
    """Change, cut or double some bytes of a file: whether it is another file then."""
    before = place.read_bytes()
    content = bytearray(before)
    tail = max(0, len(content) - 55)  # of the data file: the values
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, len(content)), st.integers(tail, max(tail, len(content) - 1))))
        match data.draw(st.sampled_from(["set", "set", "cut", "insert"])):
            case "set":
                content[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 9))]
            case _:
                content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    place.write_bytes(content)
    return bytes(content) != before


FILES = st.sampled_from(["delta.json", "delta.safetensors"])


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_fuzz(tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes of either file changed: a UserError; the same bytes again: exactly the original."""
    save(example(), tmp_path / "d", force=True)
    if mutated(data, tmp_path / "d" / data.draw(FILES)):
        with pytest.raises(UserError):
            read_all(tmp_path / "d")
    else:
        same(load(tmp_path / "d"), example())


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_fuzz_by_one_who_means_harm(tmp_path: Path, data: st.DataObject) -> None:
    """The same where all hashes are made to fit: what is read is whole and finite, or there is a UserError; never anything else."""
    save(referring(save(example(), tmp_path / "d", force=True)), tmp_path / "r", force=True)
    folder = tmp_path / data.draw(st.sampled_from(["d", "r"]))
    mutated(data, folder / data.draw(FILES))
    seal(folder)
    free = psutil.virtual_memory()._replace(available=1 << 24)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(UserError):
        patch.setattr(psutil, "virtual_memory", lambda: free)
        delta = load(folder)
        for name in delta:
            entry = delta[name]
            assert entry.dense().shape == entry.shape == delta.shape(name) and bool(entry.dense().isfinite().all())


AXES = st.lists(st.one_of(st.integers(0, 4), st.sampled_from([1 << 31, 1 << 45, 1 << 61, -1])), max_size=3)
NUMBER = st.one_of(st.integers(-2, 70), st.sampled_from([1 << 61, 0.5, True, None, "x"]))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from("abcdef"), st.sampled_from(["dense", "new", "sparse", "lowrank", "packed", "ref"]), AXES, NUMBER, NUMBER, NUMBER)
def test_facts_that_lie(tmp_path: Path, name: str, kind: str, shape: list[int], scale: Any, count: Any, rice: Any) -> None:
    """A kind, shape and numbers drawn at random, the hashes made to fit."""
    save(example(), tmp_path / "d", force=True)
    numbers = {"scale": scale, "count": count, "rice": rice, "delta": "0" * 64, "name": "a"}
    said = {"kind": kind, "shape": shape} | {k: numbers[k] for k in NUMBERS.get(kind, ())} | ({"sha256": "0" * 64} if PARTS[kind] else {})
    edit(tmp_path / "d", lambda table: table["entries"].update({name: said}))
    with contextlib.suppress(UserError):
        delta = load(tmp_path / "d")
        assert delta[name].dense().shape == tuple(shape) and type(delta[name]).__name__.lower() == kind


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with contextlib.suppress(UserError):
        Checkpoint(tmp_path / "x.safetensors")
