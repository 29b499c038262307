"""LoFiT: the hook against a literal recomputation of a Llama layer, which heads move, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tune import tiny
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch, UserError
from metier.method import find
from metier.model import Specialist
from metier.model import change as changes
from metier.steer.lofit import Interventions, Settings, lofit, top
from metier.train import Budget, Run

SITE = "model.layers.{}.self_attn.o_proj"
IDS = torch.tensor([[10, 20, 30, 40]])


def literal_layer(model: torch.nn.Module, number: int, x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """A Llama layer from its equations, with z <- (1 + scale) * z + offset, both (4 heads, 8)."""
    layer = model.model.layers[number]
    attention, n = layer.self_attn, x.shape[1]
    h = layer.input_layernorm(x)
    q, k, v = (p(h).view(1, n, -1, 8).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    q, k = apply_rotary_pos_emb(q, k, *model.model.rotary_emb(h, torch.arange(n).unsqueeze(0)))
    outputs = []
    for head in range(4):
        scores = q[0, head] @ k[0, head // 2].T / 8**0.5
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
        outputs.append((1 + scale[head]) * (scores.softmax(-1) @ v[0, head // 2]) + offset[head])
    x = x + (torch.cat(outputs, -1) @ attention.o_proj.weight.T).unsqueeze(0)
    return x + layer.mlp(layer.post_attention_layernorm(x))


@torch.no_grad()
def literal(model: torch.nn.Module, scales: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    x = model.model.embed_tokens(IDS)
    for i in range(2):
        x = literal_layer(model, i, x, scales[i], offsets[i])
    return model.lm_head(model.model.norm(x))


def test_the_hook_is_the_formula() -> None:
    model = tiny.base().model
    scales, offsets = torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)
    scales[0, 1], offsets[0, 1], offsets[1, 0], offsets[1, 3] = torch.randn(4, 8)
    change = Interventions(
        {SITE.format(0): (1,), SITE.format(1): (0, 3)},
        {SITE.format(0): scales[0, [1]]},
        {SITE.format(0): offsets[0, [1]], SITE.format(1): offsets[1, [0, 3]]},
    )
    with torch.no_grad():
        with change.attach(model):
            seen = model(IDS).logits
        torch.testing.assert_close(seen, literal(model, scales, offsets), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(IDS).logits, literal(model, torch.zeros(2, 4, 8), torch.zeros(2, 4, 8)), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(seen, model(IDS).logits)


def test_no_offset_is_no_change_and_undo_is_exact() -> None:
    base = tiny.base()
    before, weights = base.model(IDS).logits, tiny.snapshot(base.model)
    with Interventions({SITE.format(0): (2,)}, {}, {SITE.format(0): torch.zeros(1, 8)}).attach(base.model):
        assert torch.equal(base.model(IDS).logits, before)
    with Interventions({SITE.format(0): (2,)}, {}, {SITE.format(0): torch.ones(1, 8)}).attach(base.model):
        assert not torch.equal(base.model(IDS).logits, before)
    assert torch.equal(base.model(IDS).logits, before)
    assert all(torch.equal(weights[n], t) for n, t in base.model.state_dict().items())


def test_heads_are_ranked_over_all_layers() -> None:
    scales = {"a": torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "b": torch.tensor([[0.0, 0.0], [-6.0, 0.0], [0.0, 4.9]])}
    assert top(scales, 0.4) == {"a": (0,), "b": (1,)}
    assert top(scales, 0.6) == {"a": (0,), "b": (1, 2)}
    assert top(scales, 0.01) == {"b": (1,)}
    assert top(scales, 1.0) == {"a": (0, 1), "b": (0, 1, 2)}
    assert top({"a": torch.ones(3, 2)}, 0.4) == {"a": (0,)}


@pytest.mark.parametrize(("family", "kind"), [("causal", "choose"), ("causal", "generate"), ("seq2seq", "generate")])
def test_it_learns_at_k_heads_only(family: str, kind: str, tmp_path: Path) -> None:
    base = tiny.base(tiny.t5() if family == "seq2seq" else None, family)
    task = replace((tiny.choose() if kind == "choose" else tiny.generate()).sealed(), dev=())
    weights, run = tiny.snapshot(base.model), Run(seed=1, budget=Budget(160))
    change = lofit(Specialist(base), task, Settings(heads=0.25, lr=3e-2, batch_size=8), run)
    count = 6 if family == "seq2seq" else 2  # a quarter of 3 * 2 * 4, or of 2 * 4
    assert sum(map(len, change.heads.values())) == count == sum(len(o) for o in change.offsets.values())
    assert not change.scales
    assert all(t.abs().max() > 5e-3 for t in change.offsets.values())
    assert run.spent.trainable == count * 8
    assert run.spent.examples == 160
    assert run.curve[-1]["step"] == 10
    assert all(torch.equal(weights[n], t) for n, t in base.model.state_dict().items())
    assert not any(p.requires_grad for p in base.model.parameters())
    assert not any(m._forward_pre_hooks for m in base.model.modules())

    changes.save(change, tmp_path / "c", base=base.fingerprint)
    loaded = changes.load(tmp_path / "c", base=base.fingerprint)
    own, again, plain = (Specialist(base, c).answer(task, task.train) for c in ((change,), (loaded,), ()))
    assert [(a.output, a.logprobs) for a in own] == [(a.output, a.logprobs) for a in again]
    if kind == "choose":
        assert [a.logprobs for a in own] != [a.logprobs for a in plain]
    with pytest.raises(BaseMismatch, match="made from base"):
        changes.load(tmp_path / "c", base="other")


@pytest.mark.slow
def test_it_learns_and_repeats() -> None:
    base, task = tiny.base(), tiny.choose().sealed()
    task = replace(task, train=[replace(e, target="high") for e in task.train], dev=())
    runs = [Run(seed=3, budget=Budget(320)) for _ in range(2)]
    first, second = (lofit(Specialist(base), task, Settings(heads=0.5, lr=3e-2, batch_size=8), r) for r in runs)
    assert first.heads == second.heads
    assert all(torch.equal(first.offsets[n], second.offsets[n]) for n in first.offsets)

    def likelihood(*change: Interventions) -> float:
        answers = Specialist(base, change).answer(task, task.train)
        return sum(a.logprobs[a.choices.index(e.answer)] for a, e in zip(answers, task.train, strict=True)) / len(answers)

    assert likelihood(first) > likelihood() + 0.5


def test_other_models_are_refused() -> None:
    offset = {SITE.format(1): torch.ones(1, 8)}
    with (
        pytest.raises(KeyMismatch, match="no attention projection"),
        Interventions({SITE.format(1): (0,)}, {}, offset).attach(tiny.llama(layers=1)),
    ):
        pass
    for change in (
        Interventions({SITE.format(1): (4,)}, {}, offset),
        Interventions({SITE.format(1): (0,)}, {}, {SITE.format(1): torch.ones(1, 9)}),
    ):
        with pytest.raises(ShapeMismatch, match="are not those of the change"):
            change.attach(tiny.llama())


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match=r"write 0\.1 for 10 %"):
        find("lofit").configure({"heads": 10})
    assert find("lofit").about.families == ("causal", "seq2seq")
