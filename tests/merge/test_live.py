"""Weights that are computed: as if they were in the model, with gradients, and gone afterwards."""

from __future__ import annotations

import pytest
import torch
from tests.merge.learning import colours, noise, scores
from tests.tiny import tiny_causal, tiny_encoder, tiny_seq2seq
from torch import nn

from metier.errors import KeyMismatch
from metier.merge._coefs import Coefs, group_of
from metier.merge._guesses import Guesses, blind, entropy, pseudo_label
from metier.merge._largest import largest
from metier.merge._live import computed, learner, stacks
from metier.model import Specialist, WeightChange
from metier.train.items import collate, items


def test_computed_weights_are_those_of_the_change_attached() -> None:
    base, delta = tiny_causal(), noise(tiny_causal(), 1)
    ids = torch.arange(5, 25).view(2, 10)
    with WeightChange(delta).attach(base.model):
        wanted = base.model(ids).logits
    before = dict(base.model.named_parameters())
    with computed(base.model, list(delta), lambda n: delta[n].dense()):
        assert torch.equal(base.model(ids).logits, wanted)
    after = dict(base.model.named_parameters())
    assert list(before) == list(after)
    assert all(before[n] is after[n] for n in before)
    with pytest.raises(KeyMismatch, match="no tensor 'nowhere'"), computed(base.model, ["nowhere"], lambda n: torch.zeros(1)):
        pass


def test_a_tied_tensor_gets_its_gradient_from_both_places() -> None:
    base = tiny_causal()
    name, ids = "model.embed_tokens.weight", torch.arange(5, 15).view(1, 10)
    live = nn.Parameter(torch.zeros(base.model.get_input_embeddings().weight.shape))
    with computed(base.model, [name], lambda n: live):
        base.model(ids).logits.logsumexp(-1).sum().backward()
    own = dict(base.model.named_parameters())[name].detach().clone().requires_grad_()
    torch.func.functional_call(base.model, {name: own}, (ids,), tie_weights=True).logits.logsumexp(-1).sum().backward()
    torch.testing.assert_close(live.grad, own.grad)


def test_one_name_of_a_tied_tensor_changes_alone() -> None:
    base = tiny_causal()
    shift = torch.randn_like(base.model.lm_head.weight)
    with computed(base.model, ["lm_head.weight"], lambda n: shift):
        assert torch.equal(base.model.lm_head.weight, base.model.model.embed_tokens.weight + shift)
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight


@pytest.mark.parametrize("make", [tiny_causal, tiny_seq2seq, tiny_encoder])
def test_row_losses_add_up_to_the_loss(make) -> None:
    base, task = make(), colours()
    start, delta = Specialist(base), noise(make(), 2)
    head = None
    if base.family == "encoder":
        head = nn.Parameter(torch.randn(2, base.hidden)), nn.Parameter(torch.zeros(2))
    what = learner(start, task, {}, lambda n: delta[n].dense(), lambda: dict(delta.entries), list(delta), head)
    batch = collate(items(start, task, task.train), start, pack=False)
    with torch.no_grad():
        with what.inside():
            rows = what.row_losses(batch)
        assert rows.shape == (len(task.train),)
        torch.testing.assert_close(rows.sum(), what.loss(batch))
        one = collate(items(start, task, task.train[3:4]), start, pack=False)
        torch.testing.assert_close(rows[3], what.loss(one), rtol=1e-4, atol=1e-4)


def test_guesses_are_the_likelihoods_of_the_choices_and_read_no_answer() -> None:
    base, delta = tiny_causal(), noise(tiny_causal(), 3)
    task = blind(colours())
    assert {e.target for e in task.train} == {"warm"}
    start = Specialist(base)
    what = learner(start, task, {}, lambda n: delta[n].dense(), lambda: dict(delta.entries), list(delta), None)
    batch = collate(items(start, task, task.train), start, pack=False)
    with torch.no_grad(), what.inside():
        found = torch.stack(Guesses(what, task).of(batch))
    with WeightChange(delta).attach(base.model), torch.no_grad():
        wanted = scores(base, task)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    answered = start.then(WeightChange(delta)).choose(task, task.train)
    torch.testing.assert_close(found, torch.stack(answered), rtol=1e-4, atol=1e-4)


def test_objectives_by_hand() -> None:
    p = torch.tensor([0.95, 0.05])
    assert float(entropy(p.log())) == pytest.approx(-(0.95 * p[0].log() + 0.05 * p[1].log()))
    assert float(pseudo_label(0.9)(p.log())) == pytest.approx(float(-p[0].log()))
    assert float(pseudo_label(0.96)(p.log())) == 0.0


def test_coefficients_by_block() -> None:
    base = tiny_causal()
    bodies = [noise(base, 1), noise(base, 2)]
    every = stacks(bodies, base.device)
    for blocks, groups in (("model", 1), ("tensor", len(every))):
        coefs = Coefs(every, blocks, 0.3)
        assert len(coefs.parameters) == groups
        for n, e in coefs.entries().items():
            torch.testing.assert_close(e.dense(), 0.3 * (bodies[0][n].dense() + bodies[1][n].dense()))
    layers = {group_of(n, "layer") for n in every}
    assert {g for g in layers if ".layers." in g} == {"model.layers.0.all", "model.layers.1.all"}
    clamped = Coefs(every, "model", 3.0, limits=(0.0, 1.0))
    assert clamped.told()["model.norm.weight"] == [1.0, 1.0]


def test_an_expert_without_a_tensor_has_a_change_of_zero() -> None:
    base = tiny_causal()
    one, two = noise(base, 1, names=lambda n: "layers.0" in n), noise(base, 2, names=lambda n: "layers.1" in n)
    every = stacks([one, two], base.device)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(every[name], torch.stack([one[name].dense(), torch.zeros_like(one[name].dense())]))


def test_largest_is_exact_also_among_ties() -> None:
    masks = largest({"a": torch.ones(2, 3), "b": torch.tensor([5.0, 1.0, 1.0])}, 4)
    assert masks["a"].flatten().tolist() == [True, True, True, False, False, False]
    assert masks["b"].tolist() == [True, False, False]
