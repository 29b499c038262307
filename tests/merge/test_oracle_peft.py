"""Our merges against peft's `add_weighted_adapter`, and adapters opened as deltas against what peft folds."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tests.merge.made import made, merges, values
from tests.tiny import tiny_causal, tiny_encoder
from torch import Tensor, nn

from metier.delta import Delta, Dense, LowRank, merged
from metier.errors import KeyMismatch, UserError
from metier.merge._experts import opened

ALL = merges()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 12), nn.Linear(12, 12)


def adapted(*names: str) -> Any:
    """A peft model with random LoRA adapters of rank 3 and scale 1."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=["one", "two"], init_lora_weights=False)
    model = peft.get_peft_model(Net(), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model


def change(model: Any, name: str) -> dict[str, Tensor]:
    return {f"{m}.weight": getattr(model.base_model.model, m).get_delta_weight(name).detach() for m in ("one", "two")}


def theirs(kind: str, weights: Sequence[float], **options: Any) -> tuple[list[Delta], dict[str, Tensor]]:
    """(the adapters' changes, peft's combination of them). svd_rank 12 is the full rank, so that nothing is cut off."""
    names = ["first", "second", "third"][: len(weights)]
    model = adapted(*names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that a density of 1 prunes nothing
        model.add_weighted_adapter(names, list(weights), "all", combination_type=kind, **options)
    return [Delta({n: Dense(t) for n, t in change(model, a).items()}) for a in names], change(model, "all")


def ours(name: str, deltas: list[Delta], coefs: Sequence[float] = (), **settings: Any) -> dict[str, Tensor]:
    return values(merged(made(ALL[name], **settings), deltas, coefs=coefs).read())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 2.0, 0.25)])
def test_cat_and_svd_are_task_arithmetic(weights: tuple[float, ...]) -> None:
    for kind, options in (("cat", {}), ("svd", {"svd_rank": 12})):
        deltas, found = theirs(kind, weights, **options)
        same(ours("task-arithmetic", deltas, weights), found)


@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_ties_of_equal_weights(density: float) -> None:
    deltas, found = theirs("ties_svd", (1.0, 1.0, 1.0), density=density, svd_rank=12)
    same(ours("ties", deltas, density=density), found)


def test_ties_of_weights_elects_after_weighing() -> None:
    """peft elects by the unweighted changes and divides by their count."""
    deltas, found = theirs("ties_svd", (0.2, 2.0), density=1.0, svd_rank=12)
    mine = ours("ties", deltas, (0.2, 2.0), density=1.0)["one.weight"]
    a, b = (d["one.weight"].dense() for d in deltas)
    differ = (a.sign() != b.sign()) & ((a + b).sign() != (0.2 * a + 2 * b).sign())
    assert differ.any()
    torch.testing.assert_close(mine[differ], b[differ])  # the heavier expert wins, and its mean is itself
    torch.testing.assert_close(found["one.weight"][differ], 0.2 * a[differ], atol=2e-5, rtol=1e-3)
    agree = a.sign() == b.sign()
    torch.testing.assert_close(mine[agree], (0.2 * a + 2 * b)[agree] / 2.2, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found["one.weight"][agree], (0.2 * a + 2 * b)[agree] / 2, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "name"), [("dare_linear_svd", "dare-linear"), ("dare_ties_svd", "dare-ties")])
def test_dare_of_all(kind: str, name: str) -> None:
    deltas, found = theirs(kind, (1.0, 1.0), density=1.0, svd_rank=12)
    same(ours(name, deltas, density=1.0), found)


@pytest.mark.parametrize("density", [0.25, 0.5, 1.0])
def test_magnitude_prune_is_breadcrumbs_that_drop_no_outliers(density: float) -> None:
    weights = (0.5, 2.0, -1.0)
    deltas, found = theirs("magnitude_prune_svd", weights, density=density, svd_rank=12)
    same(ours("breadcrumbs", deltas, weights, density=density, gamma=0.0), found)


def test_linear_of_factors_is_another_sum() -> None:
    """peft's 'linear' adds the factors A and B by themselves, so their product is not the sum of the products."""
    deltas, found = theirs("linear", (0.5, 0.5))
    assert float((ours("task-arithmetic", deltas, (0.5, 0.5))["one.weight"] - found["one.weight"]).abs().max()) > 1e-3


# --- adapters as experts -------------------------------------------------------------------------------------------------
CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
    "rank-stabilised": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "use_rslora": True},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 5}
    },
    "saved whole": {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "modules_to_save": ["norm"]},
    "dora": {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "use_dora": True},
    "pissa": {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "init_lora_weights": "pissa"},
    "olora": {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "init_lora_weights": "olora"},
    "trained tokens": {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
}  # fmt: skip


def saved(kind: str, place: Path) -> dict[str, Tensor]:
    """An adapter of a kind, written to `place`; the weights that peft folds it to."""
    torch.manual_seed(1)
    config = peft.LoraConfig(**({"init_lora_weights": False} | CONFIGS[kind]), task_type="CAUSAL_LM")
    model = peft.get_peft_model(copy.deepcopy(tiny_causal().model), config)
    tuned = ("modules_to_save", "magnitude", "trainable_tokens", *(["lora_"] if kind in ("pissa", "olora") else []))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if any(part in name for part in tuned):
                p.mul_(1.1)
    model.save_pretrained(place)
    return {n: p.detach().clone() for n, p in model.merge_and_unload().named_parameters()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_is_the_change_that_peft_folds(kind: str, tmp_path: Path) -> None:
    folded, base = saved(kind, tmp_path), tiny_causal()
    delta = opened(tmp_path, base)
    found = delta.apply({n: p.data for n, p in base.model.named_parameters()})
    assert set(found) == set(folded)
    for name in folded:
        torch.testing.assert_close(found[name], folded[name], atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    assert isinstance(delta["model.layers.0.self_attn.q_proj.weight"], LowRank) == (
        kind not in ("dora", "pissa", "olora", "trained tokens")
    )


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    saved("plain", tmp_path)
    with pytest.raises(UserError, match="has shape"):
        opened(tmp_path, tiny_causal(seed=1, hidden=16))
    with pytest.raises(KeyMismatch, match="which the base does not have"):
        opened(tmp_path, tiny_encoder())
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        opened(tmp_path, tiny_causal())


TIED: dict[str, dict[str, Any]] = {  # adapters that change the embedding of a model whose output layer is the same tensor
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved, both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "factors": {"target_modules": ["q_proj", "embed_tokens"]},
    "factors, both": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]},
    "output layer": {"target_modules": ["q_proj", "lm_head"]},
}  # fmt: skip


@pytest.mark.parametrize("kind", TIED)
def test_an_adapter_of_tied_layers_says_what_it_says_beside_its_base(kind: str, tmp_path: Path) -> None:
    """Folded, the model answers as peft's does with the adapter beside it; where one tensor cannot be both layers that is said."""
    base, ids = tiny_causal(), torch.arange(3, 19)[None]
    config = peft.LoraConfig(**TIED[kind], r=2, lora_alpha=2, init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that tied layers are changed
        model = peft.get_peft_model(copy.deepcopy(base.model), config)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if any(part in name for part in ("modules_to_save", "trainable_tokens")):
                    p.mul_(1.5)
        model.save_pretrained(tmp_path)
        live = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), tmp_path).eval()(ids).logits
        if kind in ("saved", "factors", "output layer"):
            with pytest.raises(KeyMismatch, match="by itself, and in the base embedding and output layer are one tensor"):
                opened(tmp_path, base)
            return
        delta = opened(tmp_path, base)
        half = replace(base, model=copy.deepcopy(base.model).bfloat16())
        assert set(opened(tmp_path, half)) == set(delta), "peft rounds tied layers otherwise in bf16; they are one change all the same"
    folded = copy.deepcopy(base.model)
    for name, tensor in delta.apply({n: p.data for n, p in folded.named_parameters()}).items():
        folded.get_parameter(name).data.copy_(tensor)
    assert float((live - base.model(ids).logits).abs().max()) > 0.01
    torch.testing.assert_close(folded.eval()(ids).logits, live, atol=1e-4, rtol=1e-4)
