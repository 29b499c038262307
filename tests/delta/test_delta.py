"""The algebra of weight changes, on any shape, type and kind of change; and its file format to the byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from metier.delta import Delta, Dense, LowRank, New, Sparse, diff, pack, unpack
from metier.delta.entry import Entry, Seen, opened, tensors_of
from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch, UserError

SHAPES = ((), (0,), (1,), (5,), (3, 4), (1, 4), (4, 1), (0, 3), (2, 3, 2))
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def tensor(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Values of a few sizes, among them 0.0 and -0.0."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(shape, generator=generator, dtype=torch.float64)
    zero = torch.rand(shape, generator=generator) < 0.3
    return torch.where(zero, torch.copysign(torch.zeros_like(value), value), value).to(dtype)


def entry(kind: str, seed: int, shape: tuple[int, ...]) -> Entry:
    if kind == "lowrank" and len(shape) == 2:
        return LowRank(tensor(seed, (shape[0], 2)), tensor(seed + 1, (2, shape[1])), 0.5)
    return Sparse.of(tensor(seed, shape)) if kind == "sparse" else Dense(tensor(seed, shape))


shapes, seeds, kinds = st.sampled_from(SHAPES), st.integers(0, 10**6), st.sampled_from(("dense", "sparse", "lowrank"))
types = st.sampled_from(TYPES)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


@given(shapes, types, seeds, kinds)
def test_no_change_is_no_change_to_the_bit(shape: tuple[int, ...], dtype: torch.dtype, seed: int, kind: str) -> None:
    weights = {"w": tensor(seed, shape, dtype)}
    kept = weights["w"].clone()
    for nothing in (Delta({}), Delta({"w": entry(kind, seed, shape).scaled(0.0)}), Delta({"w": Sparse.of(torch.zeros(shape))})):
        found = nothing.apply(weights)
        assert same_bits(found["w"], kept)
    assert same_bits(weights["w"], kept)


@given(shapes, types, seeds, kinds)
def test_diff_undoes_apply(shape: tuple[int, ...], dtype: torch.dtype, seed: int, kind: str) -> None:
    weights = {"w": tensor(seed, shape, dtype), "still": tensor(1, (2,), dtype)}
    change = Delta({"w": entry(kind, seed + 7, shape)})
    tuned = change.apply(weights)
    found = diff(weights, tuned, fingerprint="f")
    assert tuned["w"].dtype == dtype
    assert tuned["still"] is weights["still"]
    assert found.base == "f"
    assert set(found) <= {"w"}
    got = found["w"].dense() if "w" in found.entries else torch.zeros(shape)
    size = 1 + float(weights["w"].abs().max() if weights["w"].numel() else 0) + float(change["w"].dense().abs().max() if got.numel() else 0)
    torch.testing.assert_close(got, change["w"].dense(), rtol=0, atol=ROUNDING[dtype] * size)


@given(shapes, seeds, kinds, kinds, kinds)
def test_algebra(shape: tuple[int, ...], seed: int, one: str, two: str, three: str) -> None:
    a, b, c = (Delta({"w": entry(k, seed + i, shape)}) for i, k in enumerate((one, two, three)))

    def close(x: Delta, y: Delta | Tensor) -> None:
        torch.testing.assert_close(x["w"].dense(), y["w"].dense() if isinstance(y, Delta) else y, rtol=1e-4, atol=1e-5)

    close(a + b, b + a)
    close((a + b) + c, a + (b + c))
    close(a + b, a["w"].dense() + b["w"].dense())
    close(-a, -a["w"].dense())
    close(0.5 * a, a["w"].dense() / 2)
    close(a * 0.5 + a * 0.5, a)
    close(a - a, torch.zeros(shape))
    close(2.0 * (a + b), 2.0 * a + 2.0 * b)
    assert (a + b)["w"].shape == torch.Size(shape)


@given(seeds, st.integers(0, 5), st.integers(0, 5))
def test_kinds_are_kept(seed: int, out: int, width: int) -> None:
    low = Delta({"w": LowRank(tensor(seed, (out, 2)), tensor(seed + 1, (2, width)), 3.0)})
    together = low + (-0.5) * low
    assert isinstance(together["w"], LowRank)
    assert together["w"].up.shape == (out, 4)
    sparse = Delta({"w": Sparse.of(tensor(seed, (out, width)))})
    summed = sparse + 2.0 * sparse
    assert isinstance(summed["w"], Sparse)
    assert (summed["w"].indices[1:] > summed["w"].indices[:-1]).all()
    assert isinstance((low + sparse)["w"], Dense)


@given(shapes, seeds)
def test_sparse_is_its_dense(shape: tuple[int, ...], seed: int) -> None:
    value = tensor(seed, shape)
    found = Sparse.of(value)
    assert torch.equal(found.dense(), value)
    assert int((value != 0).sum()) == found.values.numel() == Delta({"w": found}).stored_parameters()
    assert Delta({"w": found}).stored_bytes() == 12 * found.values.numel()


def test_inputs_are_not_changed() -> None:
    a, b = Delta({"w": Dense(torch.ones(2)), "x": Sparse.of(torch.ones(2))}), Delta({"w": Dense(torch.ones(2))})
    _ = a + b, -a, 0.5 * a, a.apply({"w": torch.zeros(2), "x": torch.zeros(2)})
    assert torch.equal(a["w"].dense(), torch.ones(2))
    assert torch.equal(a["x"].dense(), torch.ones(2))
    assert list(a) == ["w", "x"]
    assert len(a) == 2


def test_base_plus_delta() -> None:
    weights, change = {"w": torch.ones(2), "v": torch.zeros(1)}, Delta({"w": Dense(torch.tensor([0.5, 2.0]))})
    assert {n: t.tolist() for n, t in (weights + change / 2).items()} == {"w": [1.25, 2.0], "v": [0.0]}
    assert sum([change, change])["w"].dense().tolist() == [1.0, 4.0]  # type: ignore[call-overload]
    for wrong in (1, 2.5, None):
        with pytest.raises(TypeError, match="unsupported operand"):
            _ = wrong + change


def test_new_tensors() -> None:
    head = torch.randn(2, 3, dtype=torch.bfloat16)
    change = diff({"w": torch.ones(1)}, {"w": torch.ones(1), "head": head})
    assert isinstance(change["head"], New)
    assert same_bits(change.apply({"w": torch.ones(1)})["head"], head)
    with pytest.raises(KeyMismatch, match="new tensors cannot be added"):
        _ = change + change


def test_what_does_not_fit_is_refused() -> None:
    one, two = Delta({"w": Dense(torch.ones(2))}, "a" * 64), Delta({"w": Dense(torch.ones(2))}, "b" * 64)
    with pytest.raises(BaseMismatch, match="two bases"):
        _ = one + two
    assert (one + Delta({"w": Dense(torch.ones(2))})).base == "a" * 64
    with pytest.raises(KeyMismatch, match="no tensor 'w'"):
        one.apply({"v": torch.ones(2)})
    with pytest.raises(ShapeMismatch, match=r"shape \(3,\) in the base, \(2,\) in the delta"):
        one.apply({"w": torch.ones(3)})
    with pytest.raises(ShapeMismatch, match=r"\(2,\) and \(3,\)"):
        _ = one + Delta({"w": Dense(torch.ones(3))})
    with pytest.raises(ShapeMismatch, match="in the tuned model"):
        diff({"w": torch.ones(2)}, {"w": torch.ones(3)})
    with pytest.raises(KeyMismatch, match="lacks 1 tensors of the base, the first 'v'"):
        diff({"w": torch.ones(2), "v": torch.ones(2)}, {"w": torch.ones(2)})


# --- files ---------------------------------------------------------------------------------------------------------------
def example() -> Delta:
    return Delta(
        {
            "a": Dense(torch.tensor([1.0, -2.0], dtype=torch.bfloat16)),
            "b": Sparse(torch.tensor([1, 3]), torch.tensor([0.5, -0.5]), torch.Size((2, 2))),
            "c": LowRank(torch.ones(2, 1), torch.ones(1, 3), 2.0),
            "metier.head.bias": New(torch.zeros(3)),
            "scalar": Dense(torch.tensor(2.0)),
        },
        "f" * 64,
        {"method": "x"},
    )


@given(shapes, seeds, kinds)
def test_packed_and_unpacked(shape: tuple[int, ...], seed: int, kind: str) -> None:
    change = Delta({"w": entry(kind, seed, shape)}, "base", {"seed": seed})
    back = unpack(*pack(change))
    assert type(back["w"]) is type(change["w"])
    assert (back.base, back.provenance) == ("base", {"seed": seed})
    for key, value in tensors_of("w", change["w"]).items():
        assert same_bits(tensors_of("w", back["w"])[key], value)
    assert torch.equal(back["w"].dense(), change["w"].dense())


def test_the_format() -> None:
    """Golden: files of today must be read by the versions of tomorrow."""
    header, tensors = pack(example())
    assert header == {
        "entries": {
            "a": {"kind": "dense", "shape": [2]},
            "b": {"kind": "sparse", "shape": [2, 2]},
            "c": {"kind": "lowrank", "shape": [2, 3], "scale": 2.0},
            "metier.head.bias": {"kind": "new", "shape": [3]},
            "scalar": {"kind": "dense", "shape": []},
        },
        "base": "f" * 64,
        "provenance": {"method": "x"},
    }
    assert sorted(tensors) == ["a|dense", "b|indices", "b|values", "c|down", "c|up", "metier.head.bias|new", "scalar|dense"]
    assert tensors["a|dense"].view(torch.uint8).tolist() == [0x80, 0x3F, 0x00, 0xC0]
    assert tensors["b|indices"].view(torch.uint8).tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]


def damaged(**change: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, tensors = pack(example())
    for key, value in change.items():
        name = key.replace("_", "|")
        tensors = {k: v for k, v in tensors.items() if k != name} | ({name: value} if value is not None else {})
    return header, tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a_dense": None}, "lacks it"), ({"b_values": None}, "lacks it"), ({"c_up": None}, "lacks it"),
        ({"d_dense": torch.ones(1)}, "1 tensors that the header"),
        ({"a_dense": torch.ones(3)}, r"shape \[3\], its header says \[2\]"), ({"c_up": torch.ones(3, 1)}, "its header says"),
        ({"c_up": torch.ones(2, 2)}, "factors of shapes"), ({"c_up": torch.ones(2)}, "factors of shapes"),
        ({"b_indices": torch.tensor([3, 1])}, "do not rise"), ({"b_indices": torch.tensor([1, 1])}, "do not rise"),
        ({"b_indices": torch.tensor([1, 4])}, "outside its shape"), ({"b_indices": torch.tensor([-1, 1])}, "outside its shape"),
        ({"b_indices": torch.tensor([1])}, r"\[1\] indices"), ({"b_indices": torch.tensor([1.0, 3.0])}, "torch.float32"),
        ({"b_indices": torch.tensor([[1, 3]])}, "indices"), ({"a_dense": torch.tensor([1.0, float("nan")])}, "not numbers"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        unpack(*damaged(**change))


def test_kinds_of_later_versions_are_refused() -> None:
    header, tensors = pack(example())
    header["entries"]["a"] = {"kind": "wavelet", "shape": [2]}
    with pytest.raises(UserError, match="unknown kind 'wavelet'"):
        unpack(header, tensors)


def test_what_is_formed_whole_is_formed_by_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = Seen(torch.Size((3,)), lambda: torch.full((3,), float(torch.get_num_threads())))
        ways = [seen.dense(), seen.part(0, 3), opened(seen).part(0, 3), opened(seen).dense()]
        assert all(way.tolist() == [1.0, 1.0, 1.0] for way in ways)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
