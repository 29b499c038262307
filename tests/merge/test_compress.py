"""ComPEFT, BitDelta, SVD and products of packed changes against naive code from their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metier.delta import Delta, Dense, New, Packed, Sparse
from metier.errors import ShapeMismatch, UserError
from metier.merge._overlap import overlap
from metier.merge.bitdelta import compressed as bitdelta
from metier.merge.compeft import compressed as compeft
from metier.merge.compeft import tuned
from metier.merge.svd import compressed as svd
from metier.method import find

COARSE = st.integers(-3, 3).map(float)  # many ties and zeros


def delta_of(*rows: list[float]) -> Delta:
    return Delta({f"layers.{i}.w.weight": Dense(torch.tensor([row])) for i, row in enumerate(rows)}, "base", {"from": "here"})


def flat(delta: Delta) -> Tensor:
    return torch.cat([delta[n].dense().reshape(-1) for n in sorted(delta)])


def naive_compeft(values: Tensor, density: float, alpha: float | None) -> Tensor:
    """Algorithm 1 on one flat vector."""
    order = values.abs().argsort(descending=True, stable=True)[: round(density * len(values))]
    sign = torch.zeros_like(values)
    sign[order] = values[order].sign()
    kept = values[sign != 0].abs()
    return sign * (kept.mean() if alpha is None else alpha * values.std(correction=0))


@settings(max_examples=60)
@given(
    st.lists(st.lists(COARSE, min_size=4, max_size=4), min_size=1, max_size=3),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([None, 1.0, 3.0]),
)
def test_compeft_is_its_algorithm(rows: list[list[float]], density: float, alpha: float | None) -> None:
    delta = delta_of(*rows)
    values = flat(delta)
    if not naive_compeft(values, density, alpha).nan_to_num().any():
        with pytest.raises(UserError, match="changes nothing|standard deviation is 0"):
            compeft(delta, density=density, alpha=alpha)
        return
    found = compeft(delta, density=density, alpha=alpha)
    dense = torch.cat([found[n].dense().reshape(-1) if n in found.entries else torch.zeros(4) for n in sorted(delta)])
    assert torch.allclose(dense, naive_compeft(values, density, alpha), atol=1e-6)
    assert found.base == "base" and found.provenance["method"] == "compeft"


def test_the_nearest_scale_is_nearest() -> None:
    values = torch.randn(400)
    delta = Delta({"w": Dense(values)})

    def miss(found: Delta) -> float:
        kept = found["w"].dense() != 0
        return float((values[kept] - found["w"].dense()[kept]).square().sum())

    best = compeft(delta, density=0.3)
    assert all(miss(best) <= miss(0.01 * c * best) for c in (90, 99, 101, 110))


def test_compeft_by_tensor_and_new_tensors() -> None:
    delta = Delta({"a": Dense(torch.tensor([5.0, 1.0])), "b": Dense(torch.tensor([0.2, 0.1])), "head": New(torch.ones(3))})
    found = compeft(delta, density=0.5, scope="tensor")
    assert found["a"].dense().tolist() == [5.0, 0.0] and found["b"].dense().tolist() == pytest.approx([0.2, 0.0])
    assert set(compeft(delta, density=0.5).entries) == {"a", "head"}
    assert compeft(-delta, density=0.5, scope="tensor")["b"].dense().tolist() == pytest.approx([-0.2, 0.0])


def test_alpha_is_tuned_by_a_score() -> None:
    delta = Delta({"w": Dense(torch.randn(200))})
    std = float(delta["w"].dense().std(correction=0))
    found, alpha = tuned(delta, lambda d: -abs(d["w"].scale - 2 * std), density=0.2, alphas=(0.5, 1.0, 2.0, 4.0))  # type: ignore[union-attr]
    assert alpha == 2.0 and found.provenance["settings"]["alpha"] == 2.0
    assert torch.allclose(found["w"].dense(), compeft(delta, density=0.2, alpha=2.0)["w"].dense())


def test_compeft_takes_few_bytes() -> None:
    delta = Delta({"w": Dense(torch.randn(200, 500))})
    bits = 8 * compeft(delta, density=0.05).stored_bytes() / 100_000
    entropy = -(0.05 * math.log2(0.05) + 0.95 * math.log2(0.95)) + 0.05
    assert entropy < bits < 1.1 * entropy, "Golomb-Rice codes come within a tenth of what is possible"


@pytest.mark.parametrize("wrong", [{"density": 0.0}, {"density": 5}, {"alpha": 0.0}, {"scope": "layer"}])
def test_wrong_settings(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        compeft(delta_of([1.0, 2.0]), **wrong)  # type: ignore[arg-type]


def test_bitdelta() -> None:
    matrix, bias, embedding = torch.randn(6, 9), torch.randn(9), torch.randn(4, 3)
    delta = Delta({"layers.0.w.weight": Dense(matrix), "layers.0.w.bias": Dense(bias), "embed.weight": Dense(embedding)})
    found = bitdelta(delta)
    exact = torch.where(matrix > 0, 1.0, -1.0) * matrix.abs().mean()
    assert torch.allclose(found["layers.0.w.weight"].dense(), exact)
    assert found.only(["layers.0.w.weight"]).stored_bytes() <= 2 * (54 // 8 + 1)
    assert isinstance(found["layers.0.w.bias"], Dense) and isinstance(found["embed.weight"], Dense)
    assert isinstance(bitdelta(delta, everything=True)["embed.weight"], Packed)
    with pytest.raises(UserError, match="no matrix"):
        bitdelta(delta.only(["layers.0.w.bias"]).read())


def test_svd_is_nearest_and_leaves_vectors() -> None:
    matrix, bias = torch.randn(6, 9), torch.randn(9)
    found = svd(Delta({"w": Dense(matrix), "b": Dense(bias), "head": New(matrix)}, "base"), 2)
    U, S, Vh = np.linalg.svd(matrix.numpy())
    assert np.allclose(found["w"].dense().numpy(), (U[:, :2] * S[:2]) @ Vh[:2], atol=1e-5)
    assert found.only(["w"]).stored_bytes() == 4 * 2 * (6 + 9) and torch.equal(found["b"].dense(), bias) and isinstance(found["head"], New)
    assert found.base == "base" and found.provenance["method"] == "svd" and found.provenance["settings"] == {"rank": 2}
    half = svd(Delta({"w": Dense(matrix)}), energy=0.5)["w"].dense()
    assert 0.5 <= float(half.square().sum() / matrix.square().sum()) < 1
    with pytest.raises(UserError, match="no matrix of the delta changes"):
        svd(Delta({"b": Dense(bias)}), 2)
    with pytest.raises(UserError, match="method svd: rank must be at least 1"):
        find("svd").configure({"experts": "a", "rank": "0"})
    with pytest.raises(UserError, match="exactly one expert; got 2"):
        find("svd").configure({"experts": "a,b"})


@st.composite
def packs(draw: st.DrawFn, count: int = 3, n: int = 20) -> list[Packed]:
    found = []
    for _ in range(count):
        signs = torch.tensor(draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=n, max_size=n)))
        at = signs.nonzero().squeeze(1)
        found.append(Packed.of(at, signs[at] > 0, draw(st.sampled_from([0.5, 1.0, 2.0])), torch.Size((4, n // 4))))
    return found


@pytest.mark.slow
@given(packs())
def test_packed_changes_overlap_by_counting_bits(found: list[Packed]) -> None:
    """As the dense changes do, and without forming one."""
    found = [found[0], found[1].scaled(-2.0), bitdelta(Delta({"w": Dense(torch.randn(4, 5))}), everything=True)["w"]]  # type: ignore[list-item]
    dense = overlap([Delta({"w": Dense(p.dense())}) for p in found])
    with pytest.MonkeyPatch.context() as patch:
        for way in ("dense", "part", "sparse"):
            patch.setattr(Packed, way, lambda *_: pytest.fail("a packed change was formed"))
        packed = overlap([Delta({"w": p}) for p in found])
    for key, values in dense.items():
        assert torch.allclose(torch.tensor(packed[key]), torch.tensor(values), atol=1e-6), key


def test_packed_changes_of_one_shape() -> None:
    one = Packed.of(torch.tensor([0]), torch.tensor([True]), 1.0, torch.Size((2, 8)))
    other = Packed.of(torch.tensor([0]), torch.tensor([True]), 1.0, torch.Size((4,)))
    with pytest.raises(ShapeMismatch, match="16 and 8 positions"):
        overlap([Delta({"w": one}), Delta({"w": other})])


@pytest.mark.slow
@given(packs())
def test_the_sum_of_packed_changes_is_stored_sparse_where_few_entries_change(found: list[Packed]) -> None:
    total = (Delta({"w": found[0]}) + Delta({"w": found[1]}))["w"]
    assert torch.equal(total.dense(), found[0].dense() + found[1].dense())
    assert isinstance(total, Sparse if found[0].count + found[1].count <= 6 else Dense)
