"""LT-SFT: the support is exact, the rest is bitwise the base's, density 1 is full tuning, and sums compose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tune import tiny

from metier.delta import Dense, New, Sparse
from metier.errors import UserError
from metier.method import find
from metier.model import Specialist, WeightChange
from metier.model import change as changes
from metier.train import Budget, Run
from metier.tune.where import full
from metier.tune.where.lt_sft import Settings, lt_sft, masked, top


def constant(target: str = "high"):
    """A task that a random model can learn, without dev, so that the last state is kept."""
    task = tiny.choose().sealed()
    return replace(task, train=[replace(e, target=target) for e in task.train], dev=())


def norms(model: torch.nn.Module) -> set[str]:
    return {n for n, _ in model.named_parameters() if "norm" in n.lower()}


@pytest.mark.parametrize("family", ["causal", "tied", "seq2seq", "encoder"])
@pytest.mark.parametrize("density", [0.013, 0.3])
def test_the_support_is_exact_and_the_rest_is_the_base(family: str, density: float) -> None:
    models = {"causal": tiny.llama, "tied": lambda: tiny.llama(tied=True), "seq2seq": tiny.t5, "encoder": tiny.bert}
    base = tiny.base(models[family](), "causal" if family == "tied" else family)
    weights, run = tiny.snapshot(base.model), Run(budget=Budget(96))
    change = lt_sft(Specialist(base), constant(), Settings(density=density, lr=1e-2, batch_size=8), run)
    entries = {n: e for n, e in change.delta.entries.items() if not isinstance(e, New)}
    parameters = dict(base.model.named_parameters())
    assert set(entries) == set(parameters) - norms(base.model)
    total = sum(parameters[n].numel() for n in entries)
    assert sum(len(e.indices) for e in entries.values()) == round(density * total)
    assert all(isinstance(e, Sparse) and len(e.indices.unique()) == len(e.indices) == len(e.values) for e in entries.values())
    heads = sum(e.value.numel() for e in change.delta.entries.values() if isinstance(e, New))
    assert (heads > 0) == (family == "encoder")
    assert run.spent.trainable == round(density * total) + heads
    assert run.spent.examples == 96
    assert run.curve[0]["step"] == 0

    with change.attach(base.model):
        moved = 0
        for name, p in base.model.named_parameters():
            still = torch.ones(p.numel(), dtype=torch.bool)
            if name in entries:
                still[entries[name].indices] = False
                moved += int((p.flatten()[~still] != weights[name].flatten()[~still]).sum())
            assert torch.equal(p.flatten()[still], weights[name].flatten()[still])
        assert moved > 0.9 * round(density * total)
    assert all(torch.equal(weights[n], t) for n, t in base.model.state_dict().items())
    assert not any(p.requires_grad or p._backward_hooks for p in base.model.parameters())


@pytest.mark.parametrize("family", ["causal", "encoder"])
def test_density_one_is_full_tuning_by_half_the_budget(family: str) -> None:
    base, task = tiny.base(tiny.bert() if family == "encoder" else None, family), tiny.choose().sealed()
    sparse = lt_sft(Specialist(base), task, Settings(density=1.0, norms="yes", lr=3e-3, batch_size=8), Run(seed=5, budget=Budget(96)))
    dense = full.full(Specialist(base), task, full.Settings(lr=3e-3, batch_size=8), Run(seed=5, budget=Budget(48)))
    assert set(sparse.delta) == set(dense.delta)
    assert all(torch.equal(sparse.delta[n].dense(), dense.delta[n].dense()) for n in dense.delta)


def test_the_mask_is_what_full_tuning_moved_most() -> None:
    """Phase 1 against full tuning that keeps its last state, ranked by hand."""
    base, task = tiny.base(), constant()
    sparse = lt_sft(Specialist(base), task, Settings(density=0.05, norms="yes", lr=3e-3, batch_size=8), Run(seed=5, budget=Budget(96)))
    dense = full.full(Specialist(base), task, full.Settings(lr=3e-3, batch_size=8), Run(seed=5, budget=Budget(48)))
    sizes = torch.cat([dense.delta[n].dense().abs().flatten() for n in dense.delta])
    count = round(0.05 * len(sizes))
    threshold = sizes.sort(descending=True).values[count - 1]
    inside = torch.cat([dense.delta[n].dense().abs().flatten()[sparse.delta[n].indices] for n in dense.delta])
    assert len(inside) == count
    assert inside.min() >= threshold


def test_top_counts_exactly_also_among_ties() -> None:
    masks = top({"a": torch.ones(2, 3), "b": torch.tensor([5.0, 1.0, 1.0])}, 4)
    assert sum(int(m.sum()) for m in masks.values()) == 4
    assert masks["b"][0]
    assert masks["a"].shape == (2, 3)
    assert top({"a": torch.tensor([[1.0, 3.0], [2.0, 0.0]])}, 2)["a"].tolist() == [[False, True], [True, False]]


def test_gradients_are_masked_and_only_inside() -> None:
    p = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    with masked({"p": p}, {"p": torch.tensor([True, False, True])}):
        (2 * p).sum().backward()
        assert p.grad.tolist() == [2.0, 0.0, 2.0]
    assert not p.requires_grad
    assert not p._backward_hooks


def test_l1_keeps_the_change_smaller() -> None:
    base = tiny.base()
    sizes = []
    for l1 in (0.0, 1000.0):
        change = lt_sft(Specialist(base), constant(), Settings(density=0.05, l1=l1, lr=1e-2, batch_size=8), Run(budget=Budget(96)))
        sizes.append(sum(float(e.dense().abs().sum()) for e in change.delta.entries.values()))
    assert sizes[1] < 0.7 * sizes[0]


def test_two_changes_add_up_and_are_saved(tmp_path: Path) -> None:
    base = tiny.base()
    one, two = (
        lt_sft(Specialist(base), constant(t), Settings(density=0.02, lr=1e-2, batch_size=8), Run(budget=Budget(64)))
        for t in ("low", "high")
    )
    both = WeightChange(one.delta + two.delta)
    assert all(isinstance(e, Sparse) for e in both.delta.entries.values())
    weights = tiny.snapshot(base.model)
    with both.attach(base.model):
        for name in both.delta:
            expected = weights[name] + (one.delta[name].dense() + two.delta[name].dense())
            torch.testing.assert_close(base.model.state_dict()[name], expected, rtol=0, atol=0)
    changes.save(one, tmp_path / "one", base=base.fingerprint)
    loaded = changes.load(tmp_path / "one", base=base.fingerprint)
    assert all(torch.equal(loaded.delta[n].dense(), one.delta[n].dense()) for n in one.delta)
    assert loaded.delta.stored_parameters() == round(0.02 * sum(e.shape.numel() for e in one.delta.entries.values()))
    assert not any(isinstance(e, Dense) for e in loaded.delta.entries.values())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"density 1e-09 of \d+ entries keeps none"):
        lt_sft(Specialist(tiny.base()), constant(), Settings(density=1e-9), Run(budget=Budget(8)))
    with pytest.raises(UserError, match=r"write 0\.05 for 5 %"):
        find("lt-sft").configure({"density": 5})
