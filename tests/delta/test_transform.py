"""Transforms and merges: the defining identities, slices equal the whole, order and hash seed do not matter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metier.delta import Delta, Dense, LowRank, Merge, New, Sparse, chain, identity, masked, merged, partition, per_tensor, transformed
from metier.delta.entry import SLICE
from metier.delta.parts import by_depth, drop, elect_sign_mean, mask, mean, project, scale, scale_by, total, trim, trim_outliers, truncate
from metier.delta.parts.drop_by_rank import _ranks, drop_by_rank
from metier.delta.transform import At, Transform, elementwise, slices
from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch, UserError
from metier.merge.linear import linear
from metier.merge.task_arithmetic import task_arithmetic
from metier.merge.ties import ties

SHAPES = {"a": (), "b": (0,), "c": (1,), "model.layers.0.w": (3, 7), "model.layers.1.w": (5, 1), "model.layers.1.b": (9,)}


def _centred(state: object, at: At, values: Tensor) -> Tensor:
    """A row less its mean: wrong where slices are not of whole rows."""
    width = at.shape[-1] if at.shape else 1
    assert at.start % max(1, width) == 0 and len(values) % max(1, width) == 0
    return (values.view(-1, width) - values.view(-1, width).mean(1, keepdim=True)).view(-1) if len(values) else values


PARTS: dict[str, Callable[[], Transform]] = {
    "identity": identity,
    "trim": lambda: trim(0.3),
    "trim layer": lambda: trim(0.3, scope="layer"),
    "trim model": lambda: trim(0.3, scope="model"),
    "outliers": lambda: trim_outliers(0.4, 0.1),
    "drop": lambda: drop(0.5, seed=3),
    "scale": lambda: scale(0.5),
    "scale by": lambda: scale_by(lambda name: len(name) / 8),
    "depth": lambda: by_depth(0.0, 1.0),
    "mask": lambda: mask(lambda name: torch.arange(max(1, torch.Size(SHAPES[name]).numel()))[: torch.Size(SHAPES[name]).numel()].view(SHAPES[name]) % 2 == 0),
    "truncate": lambda: truncate(1),
    "rows": lambda: elementwise(lambda _: None, _centred, rows=True),
    "masked rows": lambda: masked(elementwise(lambda _: None, _centred, rows=True), lambda name: "layers" in name),
    "by rank": lambda: drop_by_rank(0.5, 0.2, seed=1),
    "per tensor": lambda: per_tensor(lambda t: t - t.mean() if t.numel() else t),
}  # fmt: skip


def delta(seed: int, *, zeros: bool = True, ties_: bool = False) -> Delta:
    g = torch.Generator().manual_seed(seed)
    entries = {}
    for name, shape in SHAPES.items():
        value = torch.randn(shape, generator=g)
        value = (value * 2).round() if ties_ else value
        entries[name] = Dense(value * (torch.rand(shape, generator=g) < 0.8) if zeros else value)
    return Delta(entries)


def equal(a: Delta, b: Delta) -> None:
    assert set(a) == set(b)
    for name in a:
        assert torch.equal(a[name].dense(), b[name].dense()), name


def near(a: Delta, b: Delta) -> None:
    for name in a:
        torch.testing.assert_close(a[name].dense(), b[name].dense())


parts = st.sampled_from(sorted(PARTS))


@given(parts, st.integers(0, 20), st.booleans(), st.integers(1, 9))
def test_slices_equal_the_whole(part: str, seed: int, ties_: bool, size: int) -> None:
    for entry in transformed(PARTS[part](), delta(seed, ties_=ties_)).entries.values():
        whole = entry.dense()
        sliced = torch.cat([v.clone() for _, v in slices(entry, size)]) if whole.numel() else whole.reshape(-1)
        assert torch.equal(sliced, whole.reshape(-1))


@given(parts, parts, parts, st.integers(0, 20))
def test_chain_associates_and_equals_its_parts_by_hand(a: str, b: str, c: str, seed: int) -> None:
    d, (f, g, h) = delta(seed), (PARTS[p]() for p in (a, b, c))
    by_hand = transformed(h, transformed(g, transformed(f, d).read()).read())
    for grouped in (chain(f, g, h), chain(chain(f, g), h), chain(f, chain(g, h))):
        equal(transformed(grouped, d), by_hand)


@given(parts, st.integers(0, 20))
def test_transforms_are_pure_and_dictionary_order_does_not_matter(part: str, seed: int) -> None:
    d = delta(seed, ties_=True)
    before = {n: e.dense().clone() for n, e in d.entries.items()}
    first = transformed(PARTS[part](), d).read()
    backwards = Delta(dict(reversed(list(d.entries.items()))))
    equal(first, transformed(PARTS[part](), backwards))
    assert all(torch.equal(before[n], d[n].dense()) for n in before)


@given(st.integers(0, 20), st.sampled_from(["tensor", "layer", "model"]))
def test_boundary_values_equal_the_simpler_transform(seed: int, scope: str) -> None:
    d = delta(seed)
    for t in (trim(1.0, scope=scope), trim_outliers(1.0, 0.0), drop(1.0), scale(1.0), by_depth(1, 1), truncate(99), truncate(energy=1.0)):  # type: ignore[arg-type]
        equal(transformed(t, d), d)
    equal(transformed(trim_outliers(0.3, 0.0), d), transformed(trim(0.3), d))


@given(st.integers(0, 20), st.sampled_from([0.1, 0.25, 0.5, 0.9]), st.booleans())
def test_trim_keeps_exactly_the_documented_count(seed: int, density: float, ties_: bool) -> None:
    d = delta(seed, zeros=False)
    if ties_:
        d = Delta({n: Dense(torch.ones_like(e.dense())) for n, e in d.entries.items()})
    for entry in transformed(trim(density), d).entries.values():
        values = entry.dense().reshape(-1)
        assert int(values.count_nonzero()) == round(density * len(values))
        if ties_:  # by lowest index
            assert bool((values[: round(density * len(values))] != 0).all())
    every = torch.cat([e.dense().reshape(-1) for e in transformed(trim(density, scope="model"), d).entries.values()])
    assert int(every.count_nonzero()) == round(density * len(every))


def test_outliers_of_small_tensors_leave_the_rest() -> None:
    """mergekit's slice [n_bot:-n_top] is empty where n_top is 0."""
    d = Delta({"x": Dense(torch.arange(1.0, 11.0))})
    assert transformed(trim_outliers(0.5, 0.01), d)["x"].dense().count_nonzero() == 5
    got = transformed(trim_outliers(0.3, 0.2), d)["x"].dense()
    assert got.tolist() == [0, 0, 0, 0, 0, 6, 7, 8, 0, 0]


def test_drop_keeps_the_expectation_and_no_two_experts_share_a_mask() -> None:
    one = Delta({"x": Dense(torch.ones(400, 1000))})
    got = transformed(drop(0.25, seed=1), one)["x"].dense()
    assert set(got.unique().tolist()) == {0.0, 4.0}
    assert abs(float(got.mean()) - 1) < 0.02
    sum_ = merged(Merge(drop(0.5, seed=1), total, identity()), [one, one])["x"].dense()
    assert abs(float((sum_ == 2).float().mean()) - 0.5) < 0.01
    other = transformed(drop(0.25, seed=2), one)["x"].dense()
    assert not torch.equal(got, other)


def test_masked_and_partition() -> None:
    d = delta(0)
    got = transformed(masked(scale(0), lambda n: "layers" in n), d)
    assert all(torch.equal(got[n].dense(), d[n].dense() * (0 if "layers" in n else 1)) for n in d)
    got = transformed(partition({"w": trim(0.5), "rest": scale(2)}, {r"\.w$": "w", "": "rest"}), d)
    assert torch.equal(got["c"].dense(), 2 * d["c"].dense())
    assert torch.equal(got["model.layers.0.w"].dense(), transformed(trim(0.5), d)["model.layers.0.w"].dense())
    with pytest.raises(UserError, match="'a' belongs to ''"):
        transformed(partition({"w": trim(0.5)}, {"w": "w"}), d)["a"].dense()


def test_project() -> None:
    d = Delta({"x": Dense(torch.randn(4, 6))})
    basis = torch.randn(6, 2)
    onto, away = (transformed(project({"x": basis}, onto=o), d)["x"].dense() for o in (True, False))
    torch.testing.assert_close(onto + away, d["x"].dense())
    torch.testing.assert_close(away @ basis, torch.zeros(4, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(transformed(project({"x": torch.eye(4)}, side="out"), d)["x"].dense(), d["x"].dense())
    with pytest.raises(ShapeMismatch, match="'x' has shape"):
        transformed(project({"x": torch.eye(3)}), d)["x"].dense()


MERGES: dict[str, Callable[[], Merge]] = {
    "linear": linear,
    "task": lambda: task_arithmetic(scale=0.7),
    "ties": lambda: ties(density=0.4),
    "ties model": lambda: ties(density=0.4, scope="model"),
}
merges = st.sampled_from(sorted(MERGES))
seeds = st.integers(0, 50)


@given(merges, seeds)
def test_k_copies_give_that_one(name: str, seed: int) -> None:
    way = ties(density=1.0) if name.startswith("ties") else linear()
    near(merged(way, [delta(seed)] * 3), delta(seed))


@given(merges, seeds, st.permutations([0, 1, 2]))
def test_permuting_experts(name: str, seed: int, order: list[int]) -> None:
    experts, coefs = [delta(seed + i) for i in range(3)], [0.5, 1.0, 2.0]
    near(
        merged(MERGES[name](), experts, coefs=coefs),
        merged(MERGES[name](), [experts[i] for i in order], coefs=[coefs[i] for i in order]),
    )


@given(merges, seeds, st.sampled_from([0.25, 2.0, -1.0]))
def test_merging_scaled_deltas(name: str, seed: int, c: float) -> None:
    experts = [delta(seed + i) for i in range(3)]
    near(merged(MERGES[name](), [c * e for e in experts]), c * merged(MERGES[name](), experts).read())


def ties_by_hand(stack: Tensor, density: float, coefs: list[float]) -> Tensor:
    """Algorithm 1, one entry at a time."""
    flat = stack.reshape(len(stack), -1)
    kept = torch.zeros_like(flat)
    for row, out in zip(flat, kept, strict=True):
        order = row.abs().sort(descending=True, stable=True).indices[: round(density * len(row))]
        out[order] = row[order]
    result = torch.zeros(flat.shape[1])
    for j in range(flat.shape[1]):
        weighted = [c * x for c, x in zip(coefs, kept[:, j].tolist(), strict=True)]
        sign = float(torch.tensor(weighted).sum().sign())
        agree = [(w, abs(c)) for w, c in zip(weighted, coefs, strict=True) if w * sign > 0]
        result[j] = sum(w for w, _ in agree) / sum(c for _, c in agree) if agree else 0.0
    return result.view(stack.shape[1:])


@settings(max_examples=40)
@given(seeds, st.sampled_from([0.2, 0.5, 1.0]), st.sampled_from([[1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.5, 1.0, -2.0], [0.0, 0.0, 0.0]]))
def test_ties_against_the_paper(seed: int, density: float, coefs: list[float]) -> None:
    experts = [delta(seed + i) for i in range(3)]
    got = merged(ties(density=density), experts, coefs=coefs)
    for name in got:
        torch.testing.assert_close(got[name].dense(), ties_by_hand(torch.stack([e[name].dense() for e in experts]), density, coefs))


def test_kinds_of_entries_merge_alike() -> None:
    up, down = torch.randn(30, 2), torch.randn(2, 40)
    low, sparse = LowRank(up, down, 0.5), Sparse.of(torch.randn(30, 40) * (torch.rand(30, 40) < 0.1))
    stored = merged(ties(density=0.3), [Delta({"x": low}), Delta({"x": sparse})])
    dense = merged(ties(density=0.3), [Delta({"x": Dense(low.dense())}), Delta({"x": Dense(sparse.dense())})])
    equal(stored, dense)


def test_a_tensor_that_an_expert_does_not_change() -> None:
    got = merged(linear(), [Delta({"x": Dense(torch.ones(2))}), Delta({"y": Dense(torch.ones(3))})])
    assert got["x"].dense().tolist() == [0.5, 0.5] and got["y"].dense().tolist() == [0.5] * 3


def test_mismatches_are_refused() -> None:
    x = Delta({"x": Dense(torch.ones(2))}, "aa")
    for experts, error, message in (
        ([], UserError, "no expert"), ([x, Delta({}, "bb")], BaseMismatch, "different bases"),
        ([x, Delta({"x": Dense(torch.ones(3))})], ShapeMismatch, r"'x' has the shapes \(2,\), \(3,\)"),
        ([Delta({"x": New(torch.ones(2))})], KeyMismatch, "cannot be merged"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            merged(linear(), experts).read()
    with pytest.raises(UserError, match="2 coefficients for 1 experts"):
        merged(linear(), [x], coefs=[1.0, 2.0])
    with pytest.raises(UserError, match="add up to 0"):
        merged(linear(), [x, x], coefs=[1.0, -1.0]).read()
    with pytest.raises(UserError, match="write 0.2 for 20 %"):
        ties(density=20)


def test_elect_leaves_exact_ties_of_signs_at_zero() -> None:
    stack = torch.tensor([[1.0, 2.0, 0.0], [-1.0, -1.0, 0.0]])
    assert elect_sign_mean(None, stack, [1.0, 1.0]).tolist() == [0.0, 2.0, 0.0]  # type: ignore[arg-type]
    assert mean(None, torch.tensor([[1.0], [3.0]]), [1.0, 1.0]).tolist() == [2.0]  # type: ignore[arg-type]


SEEDED = """
import hashlib, torch
from metier.delta import Delta, Dense, Merge, identity, merged
from metier.delta.parts import drop, elect_sign_mean
from metier.merge.ties import ties
experts = [Delta({n: Dense(torch.randn(40, generator=torch.Generator().manual_seed(i + ord(n)))) for n in "abc"}) for i in range(3)]
for way in (Merge(drop(0.4, seed=5), elect_sign_mean, identity()), ties(density=0.3, scope="model")):
    found = merged(way, experts)
    print(hashlib.sha256(b"".join(found[n].dense().numpy().tobytes() for n in sorted(found))).hexdigest())
"""


@pytest.mark.slow
def test_the_hash_seed_does_not_matter() -> None:
    seen = {
        subprocess.run(
            [sys.executable, "-c", SEEDED], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1 and len(seen.pop().split()) == 2


def test_rows_across_blocks() -> None:
    """Blocks of rows are the same whatever slice is asked for, also of rows that are longer than a block."""
    for shape in ((600, 999), (3, SLICE + 5), (SLICE + 9,)):
        values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        entry = transformed(PARTS["rows"](), Delta({"w": Dense(values)}))["w"]
        whole, n = entry.dense().reshape(-1), values.numel()
        torch.testing.assert_close(entry.dense(), values - values.mean(-1, keepdim=True))
        for start, stop in ((0, n), (5, 17), (999, 999 * 3 + 1), (SLICE - 4, SLICE + 8), (n - 3, n), (7, 7)):
            assert torch.equal(entry.part(start, stop), whole[start:stop])
            assert torch.equal(entry.part(start, stop, torch.empty(stop - start)), whole[start:stop])


def test_what_is_whole_only_is_formed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of it, and of what is made of it, are cut from one; a large one lies in a file."""
    for large in (1, 1 << 22):
        monkeypatch.setattr("metier.delta.held.LARGE", large)
        formed: list[int] = []

        def form(t: Tensor, formed: list[int] = formed) -> Tensor:
            formed.append(1)
            return t - t.mean()

        values = torch.randn(30, 20)
        found = merged(Merge(per_tensor(form), total, scale(2.0)), [Delta({"w": Dense(values)}), Delta({"w": Dense(values * 2)})])["w"]
        parts_ = [found.part(start, start + 100).clone() for start in range(0, 600, 100)]
        torch.testing.assert_close(torch.cat(parts_), 6 * (values - values.mean()).view(-1))
        assert len(formed) == 2


def test_stacks_that_are_formed_one_by_one() -> None:
    """A merge of whole tensors may iterate over its experts, and is told where it asks for more."""
    given_ = [Delta({"w": Dense(torch.full((2, 3), float(i)))}) for i in range(4)]
    add = merged(Merge(identity(), total, identity(), elementwise=False), given_, coefs=[1, 2, 3, 4])
    assert torch.equal(add["w"].dense(), torch.full((2, 3), 20.0))
    odd = merged(Merge(identity(), lambda at, stack, coefs, plan: stack[:2], identity(), elementwise=False), given_)
    with pytest.raises(TypeError, match="one at a time"):
        odd["w"].dense()


@given(st.integers(1, 9), st.integers(1, 300), st.integers(0, 99), st.booleans())
def test_ranks_are_those_of_a_stable_sort(rows: int, n: int, seed: int, ties_: bool) -> None:
    values = torch.randn(rows, n, generator=torch.Generator().manual_seed(seed)) * 3
    values = values.round() if ties_ else values
    assert torch.equal(_ranks(values), values.abs().argsort(dim=1, stable=True).argsort(dim=1).float())
