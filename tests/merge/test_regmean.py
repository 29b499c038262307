"""RegMean: the least-squares solution exactly, what the inputs leave open, and the inputs themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.merge.learning import colours, noise, saved
from tests.tiny import tiny_causal, tiny_encoder

from metier.delta import Delta, Dense, merged
from metier.merge._data import at_work
from metier.merge._experts import Expert
from metier.merge.regmean import Settings, least_squares, products, regmean
from metier.model import Specialist, WeightChange
from metier.train import Run


def problem(k: int, seed: int, tokens: int = 40):
    """(base W0, experts W_i, inputs X_i)."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(3, 5, generator=generator)
    experts = [torch.randn(3, 5, generator=generator) for _ in range(k)]
    return base, experts, [torch.randn(tokens, 5, generator=generator) for _ in range(k)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 100))
def test_is_the_least_squares_solution(k: int, seed: int) -> None:
    base, experts, inputs = problem(k, seed)
    changes = [Delta({"w": Dense(w - base)}) for w in experts]
    found = base + merged(least_squares([{"w": (x.T @ x).double()} for x in inputs], 1.0), changes)["w"].dense()
    outputs = torch.cat([x @ w.T for x, w in zip(inputs, experts, strict=True)])
    wanted = torch.linalg.lstsq(torch.cat(inputs).double(), outputs.double()).solution.T.float()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    across = [Delta({"w": Dense((w - base).T.contiguous())}) for w in experts]
    turned = merged(least_squares([{"w": (x.T @ x).double()} for x in inputs], 1.0, across={"w"}), across)["w"].dense()
    torch.testing.assert_close(base + turned.T, wanted, rtol=1e-3, atol=1e-4)


def test_alpha_zero_weighs_each_input_alone() -> None:
    base, experts, inputs = problem(2, 3)
    changes = [Delta({"w": Dense(w - base)}) for w in experts]
    found = merged(least_squares([{"w": (x.T @ x).double()} for x in inputs], 0.0), changes)["w"].dense()
    energy = [x.square().sum(0) for x in inputs]
    wanted = sum(c["w"].dense() * e for c, e in zip(changes, energy, strict=True)) / sum(energy)
    torch.testing.assert_close(found, wanted)


def test_equal_inputs_no_inputs_and_no_products_give_the_mean() -> None:
    base, experts, inputs = problem(2, 4)
    changes = [Delta({"w": Dense(w - base)}) for w in experts]
    mean = sum(c["w"].dense() for c in changes) / 2
    gram = (inputs[0].T @ inputs[0]).double()
    for grams in ([{"w": gram}, {"w": gram}], [{"w": torch.zeros(5, 5).double()}] * 2, [{}, {}]):
        torch.testing.assert_close(merged(least_squares(grams, 0.9), changes)["w"].dense(), mean)
    dead = [x.clone() for x in inputs]
    for x in dead:
        x[:, 2] = 0.0
    found = merged(least_squares([{"w": (x.T @ x).double()} for x in dead], 1.0), changes)["w"].dense()
    torch.testing.assert_close(found[:, 2], mean[:, 2], rtol=1e-4, atol=1e-5)


def test_products_are_those_of_what_the_maps_read() -> None:
    base, task = tiny_causal(), colours(train=3)
    delta = noise(base, 1, 0.3)
    with at_work(Specialist(base), Expert(delta), task, 3) as what:
        found = products(what)
    assert "model.embed_tokens.weight" not in found
    assert "lm_head.weight" not in found  # tied to the embedding
    name, wanted = "model.layers.0.self_attn.q_proj", torch.zeros(32, 32).double()
    with WeightChange(delta).attach(base.model), torch.no_grad():
        for e in task.train:
            text, ids = base.encode_prompt(task.prompt(e))
            ids = [*ids, *base.encode_answer(text, e.answer, separator=task.separator, end=True)]
            x = base.model.model.layers[0].input_layernorm(base.model.model.embed_tokens(torch.tensor(ids))).double()
            wanted += x.T @ x
    torch.testing.assert_close(found[f"{name}.weight"], wanted, rtol=1e-4, atol=1e-4)
    assert not any(m._forward_pre_hooks for m in base.model.modules())


@pytest.mark.parametrize("make", [tiny_causal, tiny_encoder])
def test_as_a_method_k_copies_give_that_one(tmp_path: Path, make) -> None:
    base, task = make(), colours()
    delta = noise(base, 1)
    change = regmean(Specialist(base), task, Settings(experts=saved(base, tmp_path, [delta, delta]), examples=4), Run())
    for name in delta:
        torch.testing.assert_close(change.delta[name].dense(), delta[name].dense(), rtol=1e-4, atol=1e-6)
