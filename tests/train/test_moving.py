"""While training, copies move; afterwards the base is the very same, whatever happened. And peft's adapters leave no trace."""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest
import torch
from tests.model.architectures import base
from tests.train.helpers import letters, trained
from torch import nn

from metier.delta import Delta, LowRank
from metier.errors import UserError
from metier.method import find
from metier.model import Specialist, WeightChange
from metier.train import Budget, Run
from metier.train.moving import moving, tune
from metier.train.precision import probe
from metier.tune.how.lora import injected, lora, low_rank

LORA = find("lora").configure


def picture(model: nn.Module) -> dict[str, Any]:
    parameters = {
        n: (id(p), p.data_ptr(), p.requires_grad, p.grad, p.detach().clone()) for n, p in model.named_parameters(remove_duplicate=False)
    }
    modules = {
        n: (id(m), type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
        for n, m in model.named_modules(remove_duplicate=False)
    }
    return {"parameters": parameters, "modules": modules, "attributes": set(vars(model)), "config": model.config.to_json_string()}


def same(model: nn.Module, before: dict[str, Any]) -> bool:
    now = picture(model)
    bits = all(torch.equal(now["parameters"][n][-1], p[-1]) and now["parameters"][n][:4] == p[:4] for n, p in before["parameters"].items())
    return (
        bits
        and now["parameters"].keys() == before["parameters"].keys()
        and all(now[k] == before[k] for k in ("modules", "attributes", "config"))
    )


@pytest.mark.parametrize("name", ["llama", "tied", "gpt2", "bert", "t5"])
def test_the_base_is_as_it_was(name: str) -> None:
    model = base(name).model
    before = picture(model)
    trained(base(name), Run(budget=Budget(8)))
    assert same(model, before)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(base(name), Run(budget=Budget(8), tell=stop))
    assert same(model, before)


@pytest.mark.parametrize("chosen", ["lm_head", "embed_tokens", "", "nowhere"])
def test_tied_tensors(chosen: str) -> None:
    """Both names chosen, or the embedding alone: they stay tied. The output layer alone: untied for the while."""
    model = base("tied").model
    before = picture(model)
    with moving(model, lambda n, p: chosen in n) as (parameters, kept):
        tied = model.lm_head.weight is model.model.embed_tokens.weight
        assert tied == (chosen != "lm_head")
        assert len({id(p) for p in parameters.values()}) == len(parameters)
        for name, p in parameters.items():
            assert torch.equal(p, kept[name])
            p.data += 1
        assert all(torch.equal(kept[n], before["parameters"][n][-1]) for n in kept)
    assert same(model, before)


@pytest.mark.parametrize("chosen", ["lm_head", "embed_tokens", ""])
def test_the_change_of_tied_tensors_is_what_was_trained(chosen: str) -> None:
    start, task = Specialist(base("tied")), letters()
    seen: dict[str, list[float]] = {}
    run = Run(budget=Budget(40))
    change = tune(start, task, run, lambda n, p: chosen in n, lr=3e-3, batch_size=4)
    seen["tuned"] = [a for r in start.then(change).answer(task, task.dev) for a in r.logprobs or ()]
    best = max(c["dev_score"] - 1e-3 * c["dev_loss"] for c in run.curve)
    found = start.then(change)
    sure = -sum(
        (a.logprobs or ())[(a.choices or ()).index(e.answer)] for a, e in zip(found.answer(task, task.dev), task.dev, strict=True)
    ) / len(task.dev)
    right = sum(a.output == e.answer for a, e in zip(found.answer(task, task.dev), task.dev, strict=True)) / len(task.dev)
    assert right - 1e-3 * sure == pytest.approx(best, abs=1e-5), "what was measured while training is what is handed over"


def test_nothing_chosen() -> None:
    with pytest.raises(UserError, match="chose no parameter"):
        tune(Specialist(base("llama")), letters(), Run(), lambda n, p: False, lr=1e-3, batch_size=4)


def test_on_top_of_another_change() -> None:
    start, task = Specialist(base("llama")), letters()
    one = tune(start, task, Run(budget=Budget(20)), lambda n, p: "mlp" in n, lr=3e-3, batch_size=4)
    before = picture(base("llama").model)
    run = Run(budget=Budget(20))
    two = tune(start.then(one), task, run, lambda n, p: "mlp" in n, lr=1e-3, batch_size=4)
    assert same(base("llama").model, before)
    first = start.then(one).answer(task, task.dev)
    sure = sum((a.logprobs or ())[(a.choices or ()).index(e.answer)] for a, e in zip(first, task.dev, strict=True)) / len(task.dev)
    assert run.curve[0]["dev_loss"] == pytest.approx(-sure, abs=1e-5)
    assert start.then(one, two).answer(task, task.dev)


# --- lora ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["llama", "tied", "gpt2", "gpt-neox", "bloom", "bert", "t5"])
def test_the_change_is_peft_s_own(name: str) -> None:
    model = base(name).model
    before = picture(model)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    with injected(model, peft.LoraConfig(r=3, lora_alpha=5, target_modules="all-linear")) as tuner:
        for n, p in tuner.named_parameters():
            if "lora_B" in n:
                nn.init.normal_(p)
        entries = low_rank(tuner)
        merged = dict(copy.deepcopy(tuner).merge_and_unload().named_parameters())  # type: ignore[operator]
    assert same(model, before)
    assert entries
    assert all(isinstance(e, LowRank) and 3 in (e.up.shape[1], e.down.shape[0]) for e in entries.values())
    applied = Delta(entries).apply(weights)
    assert merged.keys() == applied.keys()
    changed = [n for n in applied if not torch.equal(applied[n], weights[n])]
    assert sorted(changed) == sorted(entries)
    for n, value in applied.items():
        torch.testing.assert_close(value, merged[n].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
def test_lora_leaves_no_trace(name: str) -> None:
    made, task = base(name), letters()
    before, count = picture(made.model), made.parameters
    run = Run(budget=Budget(24))
    change = lora(Specialist(made), task, LORA({"rank": 2, "batch_size": 4, "dropout": 0.3}), run)
    assert same(made.model, before)
    assert made.parameters == count

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lora(Specialist(made), task, LORA({"rank": 2}), Run(budget=Budget(24), tell=stop))
    assert same(made.model, before)
    adapters = [e for e in change.delta.entries.values() if isinstance(e, LowRank)]
    heads = 2 * made.hidden + 2 if name == "bert" else 0
    assert run.spent.trainable == sum(e.up.numel() + e.down.numel() for e in adapters) + heads


def test_dev_is_looked_at_without_dropout() -> None:
    made, task = base("llama"), letters()
    run = Run(budget=Budget(60))
    change = lora(Specialist(made), task, LORA({"dropout": 0.9, "batch_size": 4, "lr": 5e-3}), run)
    best = max(c["dev_score"] - 1e-3 * c["dev_loss"] for c in run.curve)
    answers = Specialist(made, (change,)).answer(task, task.dev)
    sure = sum((a.logprobs or ())[(a.choices or ()).index(e.answer)] for a, e in zip(answers, task.dev, strict=True)) / len(task.dev)
    right = sum(a.output == e.answer for a, e in zip(answers, task.dev, strict=True)) / len(task.dev)
    assert right + 1e-3 * sure == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("targets", ["nowhere", "embed_tokens", "q_proj,embed_tokens"])
def test_targets_that_are_no_linear_maps(targets: str) -> None:
    before = picture(base("llama").model)
    with pytest.raises(UserError, match=r"lora: .*(match no linear map|is no linear map)"):
        lora(Specialist(base("llama")), letters(), LORA({"targets": targets}), Run(budget=Budget(8)))
    assert same(base("llama").model, before)


def test_what_peft_refuses_half_way_leaves_no_trace() -> None:
    made = base("mamba")
    before = picture(made.model)
    with pytest.raises(UserError, match=r"targets 'all-linear' are refused by peft .*Mamba"):
        lora(Specialist(made), letters(), LORA(), Run(budget=Budget(8)))
    assert same(made.model, before)
    change = lora(Specialist(made), letters(dev=0), LORA({"targets": "in_proj,x_proj", "batch_size": 4}), Run(budget=Budget(24)))
    assert len(change.delta) == 4
    assert same(made.model, before)


def test_a_change_that_was_asked_for_is_made() -> None:
    change = lora(Specialist(base("llama")), letters(dev=0), LORA({"targets": "q_proj, v_proj", "batch_size": 4}), Run(budget=Budget(24)))
    assert isinstance(change, WeightChange)
    assert len(change.delta) == 4
    assert all(float(e.dense().abs().max()) > 0 for e in change.delta.entries.values())


# --- precision -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["llama", "bert"])
def test_the_probe_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metier.train.precision.SECONDS", 0.0)
    before = picture(base(name).model)
    precision, seconds = probe(Specialist(base(name)), letters())
    assert precision in ("float32", "bf16")
    assert 0 < seconds < 1
    assert same(base(name).model, before)
