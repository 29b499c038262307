"""What every merge without data keeps: identity, order, scaling, boundary settings, slices, negation, types, seeds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.merge.made import SHAPES, close, made, merges, ours, tuned, values, weights
from torch import Tensor

from metier.delta import Delta, Dense, LowRank, Merge, Sparse, diff, merged
from metier.delta.entry import SLICE
from metier.delta.parts.span import gram
from metier.errors import UserError

BASE = weights(0)
EXPERTS = [tuned(BASE, i) for i in (1, 2, 3)]
ALL = merges()
KEEP_ALL: dict[str, dict[str, Any]] = {  # settings at which nothing is dropped, cut or drawn towards the base
    "breadcrumbs": {"density": 1.0, "gamma": 0.0}, "breadcrumbs-ties": {"density": 1.0, "gamma": 0.0}, "dare-linear": {"density": 1.0},
    "dare-ties": {"density": 1.0}, "della": {"density": 1.0, "epsilon": 0.0}, "della-linear": {"density": 1.0, "epsilon": 0.0},
    "lines": {"first": 1.0}, "merge-back": {"share": 1.0}, "nearswap": {"t": 100.0}, "sce": {"density": 1.0}, "ties": {"density": 1.0},
    "ram": {"epsilon": 0.0}, "wudi": {"steps": 0},
}  # fmt: skip
FLAT = ("iso-c", "iso-cts")  # change the spectrum even of one expert
SUMS = ("breadcrumbs", "dare-linear", "della-linear", "lines", "task-arithmetic", "layer-swap", "iso-c", "iso-cts", "wudi")
PLACED = ("layer-swap", "slerp", "nuslerp", "arcee-fusion")  # experts have roles
DRAWN = ("dare-linear", "dare-ties", "della", "della-linear")  # a mask for each place
BENT = ("nearswap", "ram", "arcee-fusion", "wudi")  # a size of changes is among the settings


def count(name: str, wanted: int) -> int:
    least, most = ALL[name].about.experts
    return max(least, min(wanted, most or wanted))


def experts(name: str, wanted: int = 3) -> list[dict[str, Tensor]]:
    return EXPERTS[: count(name, wanted)]


def change(merge: Merge, deltas: list[Delta], **options: Any) -> dict[str, Tensor]:
    return values(merged(merge, deltas, **options).read())


def deltas(name: str, wanted: int = 3) -> list[Delta]:
    return [diff(BASE, e) for e in experts(name, wanted)]


@pytest.mark.parametrize("name", ALL)
def test_no_change_gives_no_change(name: str) -> None:
    n = count(name, 2)
    kept = ours(made(ALL[name]), BASE, [{k: t.clone() for k, t in BASE.items()} for _ in range(n)])
    close(kept, BASE, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in ALL if n not in FLAT and (ALL[n].about.experts[0] == 1)])
def test_one_expert_comes_out_whole(name: str) -> None:
    close(ours(made(ALL[name], **KEEP_ALL.get(name, {})), BASE, EXPERTS[:1]), EXPERTS[0])


@pytest.mark.parametrize("name", [n for n in ALL if n not in (*SUMS, "tsv") and ALL[n].about.experts[1] != 1])
def test_copies_of_an_expert_give_that_one(name: str) -> None:
    copies = [EXPERTS[0]] * count(name, 3)
    close(ours(made(ALL[name], **KEEP_ALL.get(name, {})), BASE, copies), EXPERTS[0], atol=5e-6)


@pytest.mark.parametrize("name", [n for n in ALL if n not in (*PLACED, *DRAWN) and ALL[n].about.experts[1] is None])
def test_the_order_of_experts_does_not_matter(name: str) -> None:
    coefs = (0.5, 1.0, 1.5) if ALL[name].about.weighted else (1.0, 1.0, 1.0)
    one = ours(made(ALL[name]), BASE, EXPERTS, coefs=coefs)
    close(one, ours(made(ALL[name]), BASE, EXPERTS[::-1], coefs=coefs[::-1]), atol=2e-5)


@pytest.mark.parametrize("name", [n for n in ALL if n not in BENT])
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_scaled_changes_give_the_scaled_merge(name: str, factor: float) -> None:
    whole = [d * factor for d in deltas(name)]
    expected = {n: factor * t for n, t in change(made(ALL[name]), deltas(name)).items()}
    close(change(made(ALL[name]), whole), expected, atol=2e-5)


@pytest.mark.parametrize("name", [n for n in ALL if n != "arcee-fusion"])
def test_turned_changes_give_the_turned_merge(name: str) -> None:
    expected = {n: -t for n, t in change(made(ALL[name]), deltas(name)).items()}
    close(change(made(ALL[name]), [-d for d in deltas(name)]), expected, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_slices_are_what_the_whole_is(name: str) -> None:
    """Read slice by slice, at odd places and across the executor's slices, every tensor is bit for bit what it is as a whole."""
    shapes = {"model.layers.0.w.weight": (2, SLICE // 2 + 77), "model.layers.1.b": (37,), "s": (), "none": (0, 4)}
    if name in ("iso-c", "iso-cts", "tsv", "wudi"):
        shapes["model.layers.0.w.weight"] = (20, 31)
    base = weights(5, shapes)
    found = merged(made(ALL[name]), [diff(base, tuned(base, i)) for i in range(count(name, 3))])
    for key, entry in found.entries.items():
        whole = entry.dense().reshape(-1)
        cuts = sorted({0, *(c for c in (5, SLICE - 3, SLICE, SLICE + 11) if c < len(whole)), len(whole)})
        parts = [found.entries[key].part(a, b) for a, b in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat([*parts, torch.empty(0)]), whole), key


@pytest.mark.parametrize("name", ALL)
def test_experts_are_left_as_they_are_and_runs_agree(name: str) -> None:
    given = deltas(name)
    before = [{n: e.dense().clone() for n, e in d.entries.items()} for d in given]
    one, again = change(made(ALL[name]), given), change(made(ALL[name]), given)
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert all(torch.equal(e.dense(), b[n]) for d, b in zip(given, before, strict=True) for n, e in d.entries.items())
    turned = [d.only(sorted(d, reverse=True)) for d in given]
    other = change(made(ALL[name]), turned)
    assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_rounded_once(name: str) -> None:
    half = {n: t.bfloat16() for n, t in BASE.items()}
    tuned_half = [{n: t.bfloat16() for n, t in e.items()} for e in experts(name)]
    exact = ours(made(ALL[name]), {n: t.float() for n, t in half.items()}, [{n: t.float() for n, t in e.items()} for e in tuned_half])
    found = ours(made(ALL[name]), half, tuned_half)
    for n, tensor in found.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, exact[n].bfloat16()), n


@pytest.mark.parametrize("name", ALL)
def test_sparse_and_low_rank_changes_are_merged_as_what_they_are(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    w = "model.layers.1.mlp.weight"
    low = LowRank(torch.randn(8, 2, generator=generator), torch.randn(2, 24, generator=generator), 0.05)
    sparse = Sparse.of(torch.randn(8, 24, generator=generator) * (torch.rand(8, 24, generator=generator) < 0.3))
    given = [Delta({w: low}), Delta({w: sparse}), Delta({w: low.scaled(-0.5)})][: count(name, 3)]
    dense = [Delta({w: Dense(d[w].dense())}) for d in given]
    close(change(made(ALL[name]), given), change(made(ALL[name]), dense), atol=1e-5)


@pytest.mark.parametrize("name", [n for n in ALL if ALL[n].about.experts[1] is not None])
def test_too_many_experts_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="takes exactly"):
        change(made(ALL[name]), [diff(BASE, e) for e in EXPERTS])
    with pytest.raises(UserError, match=f"method {name}: .*takes exactly .* got 3"):
        ALL[name].configure({"experts": ("a", "b", "c")})


@pytest.mark.parametrize("name", [n for n in ALL if not ALL[n].about.weighted])
def test_coefs_are_refused_where_they_mean_nothing(name: str) -> None:
    n = count(name, 2)
    with pytest.raises(UserError, match="takes no coef"):
        change(made(ALL[name]), deltas(name, n), coefs=[2.0] * n)
    with pytest.raises(UserError, match="takes no coef"):
        ALL[name].configure({"experts": ("a", "b")[:n], "coef": (2.0,) * n})


# --- boundary settings equal the simpler method --------------------------------------------------------------------------
BOUNDARIES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("dare-linear", {"density": 1.0}, "task-arithmetic", {}),
    ("dare-ties", {"density": 1.0}, "ties", {"density": 1.0}),
    ("della-linear", {"density": 1.0, "epsilon": 0.0}, "task-arithmetic", {}),
    ("della", {"density": 1.0, "epsilon": 0.0}, "ties", {"density": 1.0}),
    ("breadcrumbs", {"density": 1.0, "gamma": 0.0}, "task-arithmetic", {}),
    ("breadcrumbs-ties", {"density": 0.3, "gamma": 0.0}, "ties", {"density": 0.3}),
    ("lines", {"first": 0.7, "last": 0.7}, "task-arithmetic", {"scale": 0.7}),
    ("merge-back", {"share": 1.0}, "linear", {}),
    ("iso-cts", {"common": 1.0, "scale": 0.5}, "iso-c", {"scale": 0.5}),
    ("multislerp", {}, "karcher", {"steps": 0}),
    ("wudi", {"steps": 0}, "iso-c", {}),
]


@pytest.mark.parametrize(("one", "settings_one", "other", "settings_other"), BOUNDARIES, ids=[f"{a}={c}" for a, _, c, _ in BOUNDARIES])
def test_boundary_settings_are_the_simpler_merge(
    one: str, settings_one: dict[str, Any], other: str, settings_other: dict[str, Any]
) -> None:
    mine, simpler = (ours(made(ALL[n], **s), BASE, EXPERTS) for n, s in ((one, settings_one), (other, settings_other)))
    if one == "wudi":  # they share what is done with tensors that are no matrices
        mine, simpler = ({n: w[n] for n in ("norm.weight", "embed_tokens.weight", "model.layers.0.attn.bias")} for w in (mine, simpler))
    close(mine, simpler, atol=1e-5)


def test_slerp_ends_at_its_experts() -> None:
    for t, expert in ((0.0, EXPERTS[0]), (1.0, EXPERTS[1])):
        close(ours(made(ALL["slerp"], t=t), BASE, EXPERTS[:2]), expert)
    unit = [{n: t / t.norm() for n, t in e.items()} for e in EXPERTS[:2]]  # of equal length the middle of the arc is the mean
    close(ours(made(ALL["slerp"], t=0.5), BASE, unit), ours(made(ALL["karcher"]), BASE, unit), atol=1e-5)


def test_lines_after_any_merge() -> None:
    plain, deep = (ours(made(ALL["ties"]), BASE, EXPERTS, lines=x) for x in (None, 0.25))
    share = {"embed_tokens.weight": 0.25, "model.layers.0.attn.weight": 0.25, "model.layers.0.attn.bias": 0.25, "norm.weight": 0.25}
    share |= {"model.layers.1.mlp.weight": 0.5, "model.layers.3.mlp.weight": 1.0}
    close({n: deep[n] - BASE[n] for n in SHAPES}, {n: share[n] * (plain[n] - BASE[n]) for n in SHAPES})
    close(ours(made(ALL["task-arithmetic"]), BASE, EXPERTS, lines=0.2), ours(made(ALL["lines"], first=0.2), BASE, EXPERTS))
    full = ours(made(ALL["slerp"]), BASE, EXPERTS[:2], lines=0.0)
    close({"norm.weight": full["norm.weight"]}, {"norm.weight": BASE["norm.weight"]})


def test_layer_swap_takes_ends_from_the_first_and_the_middle_from_the_second() -> None:
    shapes = {f"model.layers.{i}.w": (4,) for i in range(8)} | {"embed.weight": (4,)}
    base = {n: torch.zeros(s) for n, s in shapes.items()}
    language, task = ({n: torch.full(s, v) for n, s in shapes.items()} for v in (1.0, 2.0))
    found = ours(made(ALL["layer-swap"], bottom=0.25, top=0.125, transition=0.125, blend=0.25), base, [language, task])
    assert [float(found[f"model.layers.{i}.w"][0]) for i in range(8)] == [1, 1, 1.75, 2, 2, 2, 1.75, 1]
    assert float(found["embed.weight"][0]) == 1


# --- the mathematics, naively --------------------------------------------------------------------------------------------
def stacked(n: int, m: int, k: int, seed: int, rank: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(k, n, m, generator=generator, dtype=torch.float64)
    return torch.randn(k, n, rank, generator=generator, dtype=torch.float64) @ torch.randn(
        k, rank, m, generator=generator, dtype=torch.float64
    )


def of(name: str, stack: Tensor, **settings_: Any) -> Tensor:
    return change(made(ALL[name], **settings_), [Delta({"w": Dense(s.float())}) for s in stack])["w"].double()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(0, 1000))
def test_iso_c_has_a_flat_spectrum(n: int, m: int, k: int, seed: int) -> None:
    stack = stacked(n, m, k, seed)
    U, S, V = torch.linalg.svd(stack.sum(0), full_matrices=False)
    if S[-1] < 1e-3 * S[0]:
        return
    torch.testing.assert_close(of("iso-c", stack), S.mean() * U @ V, atol=1e-3, rtol=1e-3)


def test_iso_of_low_rank_experts_adds_no_noise() -> None:
    stack = stacked(12, 10, 2, 0, rank=2)
    found = torch.linalg.svdvals(of("iso-c", stack))
    assert found[:4].std() < 1e-4 and found[4:].max() < 1e-4


@pytest.mark.parametrize("k", [1, 2, 3])
def test_tsv_adds_orthogonal_parts(k: int) -> None:
    stack = stacked(9, 7, k, k)
    count = 7 // k
    parts = [torch.linalg.svd(s, full_matrices=False) for s in stack]
    U, S, V = (
        torch.cat(x, d)
        for x, d in ((([p[0][:, :count] for p in parts]), 1), ([p[1][:count] for p in parts], 0), ([p[2][:count] for p in parts], 0))
    )

    def polar(x: Tensor) -> Tensor:
        P, _, Q = torch.linalg.svd(x, full_matrices=False)
        return P @ Q

    torch.testing.assert_close(of("tsv", stack), polar(U) @ S.diag() @ polar(V), atol=1e-4, rtol=1e-4)


def test_iso_cts_as_the_algorithm_says() -> None:
    stack, k, r, q = stacked(8, 10, 2, 4), 2, 8, 4
    U, S, V = torch.linalg.svd(stack.sum(0), full_matrices=False)
    us, ss, vs = [U[:, :q]], [S[:q]], [V[:q]]
    for w in stack:
        u, s, v = torch.linalg.svd(w - U[:, :q] @ U[:, :q].T @ w, full_matrices=False)
        us.append(u[:, : (r - q) // k]), ss.append(s[: (r - q) // k]), vs.append(v[: (r - q) // k])
    (P, _, Q), (X, _, Y) = (torch.linalg.svd(torch.cat(x, d), full_matrices=False) for x, d in ((us, 1), (vs, 0)))
    torch.testing.assert_close(of("iso-cts", stack, common=0.5), torch.cat(ss).mean() * (P @ Q) @ (X @ Y), atol=1e-3, rtol=1e-3)


def test_wudi_goes_down_the_gradient_that_autograd_finds() -> None:
    stack = stacked(5, 6, 3, 7)
    merged_ = stack.sum(0).float().requires_grad_()
    optimizer = torch.optim.Adam([merged_], lr=1e-3)
    norms = stack.float().square().sum((1, 2))[:, None, None]
    for _ in range(50):
        loss = (((merged_ - stack.float()) @ stack.float().transpose(1, 2)).square() / norms).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(of("wudi", stack, steps=50, lr=1e-3).float(), merged_.detach(), atol=1e-4, rtol=1e-3)


def test_a_tensor_of_three_axes_is_a_row_of_matrices() -> None:
    stack = torch.stack([stacked(5, 6, 2, s) for s in (1, 2, 3)], 1)  # (2 experts, 3 matrices, 5, 6)
    for name in ("iso-c", "iso-cts", "tsv", "wudi"):
        torch.testing.assert_close(of(name, stack)[1], of(name, stack[:, 1]), atol=1e-5, rtol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 9000), st.integers(0, 100))
def test_inner_products_are_exact(k: int, n: int, seed: int) -> None:
    stack = torch.randn(k, n, generator=torch.Generator().manual_seed(seed))
    expected = stack.double() @ stack.double().T
    torch.testing.assert_close(torch.from_numpy(gram([Dense(s) for s in stack])), expected, atol=1e-4 * max(1, n) ** 0.5, rtol=1e-5)


@pytest.mark.parametrize("name", ["della", "della-linear"])
def test_della_keeps_the_large_likelier_and_the_mean(name: str) -> None:
    base, expert = {"w": torch.zeros(400, 50)}, {"w": torch.arange(1.0, 51.0).expand(400, 50).clone()}
    found = ours(made(ALL[name], density=0.5, epsilon=0.3), base, [expert])["w"]
    kept = (found != 0).float().mean(0)
    assert float(kept[:10].mean()) < 0.35 < 0.65 < float(kept[-10:].mean())
    assert float(found.mean()) == pytest.approx(25.5, rel=0.05)


SLICED: list[tuple[str, dict[str, Any]]] = [(n, {}) for n in ALL if n not in ("iso-c", "iso-cts", "tsv", "wudi")]
SLICED += [("nuslerp", {"per": "row"}), ("nuslerp", {"per": "column"}), ("model-stock", {"per": "row"})]


@pytest.mark.parametrize(("name", "hyperparameters"), SLICED)
def test_slices_stay_on_the_device_they_are_sent_to(name: str, hyperparameters: dict[str, Any]) -> None:
    """PyTorch's device without data stands for a GPU: an operation that leaves it, or mixes it with the CPU, is an error there."""
    merge, there = made(ALL[name], **hyperparameters), torch.device("meta")
    found = merged(merge, deltas(name), device=there, coefs=[0.5, 2.0, 1.0][: count(name, 3)] if ALL[name].about.weighted else None)
    for key in SHAPES:
        n = BASE[key].numel()
        out = torch.empty(n, device=there)
        assert found.entries[key].part(0, n, out) is out


def test_columns_of_tensors_that_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [torch.randn(50, 6, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2)]
    norms = [p.norm(dim=0) for p in pair]
    theta = ((pair[0] * pair[1]).sum(0) / (norms[0] * norms[1])).acos()
    expected = (0.25 * theta).sin() / theta.sin() * pair[0] + (0.75 * theta).sin() / theta.sin() * pair[1]
    monkeypatch.setattr("metier.merge.nuslerp.SLICE", 20)
    given_ = [Delta({"w": Dense(p.float())}) for p in pair]
    found = merged(made(ALL["nuslerp"], per="column", of="changes"), given_, coefs=[0.25, 0.75])["w"].dense()
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
