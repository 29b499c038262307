"""Fisher: the information by hand, the closed form of the merge, its boundary cases and properties."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.merge.learning import colours, noise, saved, scores, with_head
from tests.tiny import tiny_causal, tiny_encoder, tiny_seq2seq, tiny_task

from metier.delta import Delta, Dense, merged
from metier.errors import UserError
from metier.merge._data import at_work
from metier.merge._experts import Expert
from metier.merge.fisher import Settings, fisher, information, precision_weighted
from metier.model import Specialist, WeightChange
from metier.train import Run

NAMES = ("model.layers.1.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight")


def test_the_information_is_the_expected_square_of_the_score() -> None:
    base, task = tiny_causal(), colours(train=3)
    delta = noise(base, 1, 0.3, lambda n: n in NAMES)
    with at_work(Specialist(base), Expert(delta), task, 3) as what:
        found = information(what)
    weights = {n: (base.model.get_parameter(n).detach() + delta[n].dense()).requires_grad_() for n in NAMES}
    wanted = {n: torch.zeros_like(w) for n, w in weights.items()}
    for row in scores(base, task, weights):
        for logprob in row:
            grads = torch.autograd.grad(logprob, list(weights.values()), retain_graph=True)
            for n, g in zip(weights, grads, strict=True):
                wanted[n] += float(logprob.detach().exp()) * g.square() / 3
    for n in NAMES:
        torch.testing.assert_close(found[n], wanted[n], rtol=1e-3, atol=1e-3 * float(wanted[n].max()))


def test_kind_generate_takes_the_answers_of_the_data() -> None:
    base, task = tiny_seq2seq(), tiny_task("generate", train=2).sealed()
    name = "decoder.block.1.layer.2.DenseReluDense.wi.weight"
    delta = noise(base, 1, 0.1, lambda n: n == name)
    with at_work(Specialist(base), Expert(delta), task, 2) as what:
        found = information(what)[name]
    live = (base.model.get_parameter(name).detach() + delta[name].dense()).requires_grad_()
    wanted = torch.zeros_like(live)
    for e in task.train:
        text, ids = base.encode_prompt(task.prompt(e))
        labels = torch.tensor([base.encode_answer(text, e.answer, separator=task.separator, end=True)])
        out = torch.func.functional_call(base.model, {name: live}, (torch.tensor([ids]),), {"labels": labels})
        wanted += torch.autograd.grad(out.loss * labels.numel(), live)[0].square() / 2
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.max()))


def deltas(k: int, seed: int) -> tuple[list[Delta], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(seed)
    changes = [Delta({"w": Dense(torch.randn(3, 5, generator=generator))}) for _ in range(k)]
    return changes, [{"w": torch.rand(3, 5, generator=generator)} for _ in range(k)]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 100))
def test_closed_form_and_properties(k: int, seed: int) -> None:
    changes, fishers = deltas(k, seed)
    coefs = [0.5 + i for i in range(k)]
    found = merged(precision_weighted(fishers, 1e-6), changes, coefs=coefs)["w"]
    below = sum(c * f["w"] for c, f in zip(coefs, fishers, strict=True))
    wanted = sum(c * f["w"] * d["w"].dense() for c, f, d in zip(coefs, fishers, changes, strict=True)) / below
    torch.testing.assert_close(found.dense(), wanted)
    assert torch.equal(torch.cat([found.part(0, 7), found.part(7, 15)]), found.dense().flatten())
    order = list(range(k))[::-1]
    other = merged(precision_weighted([fishers[i] for i in order], 1e-6), [changes[i] for i in order], coefs=[coefs[i] for i in order])
    torch.testing.assert_close(other["w"].dense(), found.dense())
    torch.testing.assert_close(merged(precision_weighted(fishers, 1e-6), [-c for c in changes], coefs=coefs)["w"].dense(), -found.dense())


def test_boundaries() -> None:
    changes, fishers = deltas(2, 0)
    mean = (changes[0]["w"].dense() + changes[1]["w"].dense()) / 2
    for equal in ([fishers[0], fishers[0]], [{"w": torch.zeros(3, 5)}] * 2, [{}, {}]):
        torch.testing.assert_close(merged(precision_weighted(equal, 1e-6), changes)["w"].dense(), mean)
    sure = merged(precision_weighted([{"w": torch.ones(3, 5)}, {"w": torch.zeros(3, 5)}], 1e-12), changes)["w"]
    torch.testing.assert_close(sure.dense(), changes[0]["w"].dense())


@pytest.mark.parametrize("normalise", ["yes", "no"])
def test_as_a_method(tmp_path: Path, normalise: str) -> None:
    base, task = tiny_encoder(), colours()
    experts = [with_head(base, noise(base, 1), task, 5), WeightChange(noise(base, 2))]
    options = Settings(experts=saved(base, tmp_path, experts), examples=4, normalise=normalise)
    change = fisher(Specialist(base), task, options, Run())
    assert change.labels == task.choices
    assert torch.equal(change.new_tensors()["metier.head.weight"], experts[0].new_tensors()["metier.head.weight"])
    name = "encoder.layer.0.attention.self.query.weight"
    low = torch.minimum(experts[0].delta[name].dense(), experts[1].delta[name].dense())
    high = torch.maximum(experts[0].delta[name].dense(), experts[1].delta[name].dense())
    found = change.delta[name].dense()
    assert bool(((found >= low - 1e-6) & (found <= high + 1e-6)).all())
    assert not any(p.requires_grad for p in base.model.parameters())
    with pytest.raises(UserError, match="1 tasks for 2 experts"):
        fisher(Specialist(base), task, Settings(experts=options.experts, tasks=("a",)), Run())
