"""Recipes of mergekit's, each result compared with the same merge written out naively, tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.merge.models import adapter, checkpoint, noise
from tests.tiny import tiny_causal
from torch import Tensor

from metier.delta import Checkpoint, diff
from metier.errors import KeyMismatch, ShapeMismatch, UserError
from metier.merge._experts import opened
from metier.merge._work import How
from metier.merge.mergekit import prepare
from metier.merge.mergekit.recipe import evaluated
from metier.model import load_base

QUICK = How(verify=False)
Q = "model.layers.{}.self_attn.q_proj.weight"
UP = "model.layers.{}.mlp.up_proj.weight"
EMBED = "model.embed_tokens.weight"


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    base = tiny_causal()
    return {"base": Path(base.path)} | {n: checkpoint(base, tmp_path / n, noise(i + 1)) for i, n in enumerate(("a", "b"))}


def merged(tmp_path: Path, recipe: dict[str, Any], how: How = QUICK) -> Checkpoint:
    place = tmp_path / "recipe.yml"
    place.write_text(yaml.safe_dump(recipe))
    done = prepare(place).run(tmp_path / "out", how)
    assert done.verdict is None or done.verdict.equal
    return Checkpoint(tmp_path / "out")


def weights(models: dict[str, Path], name: str) -> dict[str, Tensor]:
    return {k: Checkpoint(p)[name].float() for k, p in models.items()}


def recipe(models: dict[str, Path], method: str, *, base: bool = True, **more: Any) -> dict[str, Any]:
    rows = [{"model": str(models[n]), "parameters": dict(more.pop(n, {}))} for n in ("a", "b")]
    found = {"merge_method": method, "models": rows} | more
    return found | ({"base_model": str(models["base"])} if base else {})


def test_gradients_and_filters() -> None:
    assert evaluated([0.0, 1.0], "x", 0.25) == 0.25
    assert [evaluated([0.0, 0.5, 0.3, 1.0], "x", i / 6) for i in (0, 1, 6)] == pytest.approx([0.0, 0.25, 1.0])
    rows = [{"filter": "mlp", "value": [0.0, 1.0]}, {"filter": "self_attn", "value": 0.3}, {"value": 0.7}]
    assert [evaluated(rows, n, 1.0) for n in (UP, Q, EMBED)] == [1.0, 0.3, 0.7]
    assert evaluated(rows[:2], EMBED, 0.0) is None
    assert evaluated(rows[0], UP, 1.0) == 1.0 and evaluated(rows[0], Q, 1.0) is None


def test_linear(models: dict[str, Path], tmp_path: Path) -> None:
    out = merged(tmp_path, recipe(models, "linear", base=False, a={"weight": [1.0, 0.0]}, b={"weight": 1.0}))
    for layer, share in ((0, 0.5), (1, 0.0)):
        w = weights(models, UP.format(layer))
        assert torch.allclose(out[UP.format(layer)], share * w["a"] + (1 - share) * w["b"], atol=1e-6)


def test_a_result_in_several_files(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metier.merge.mergekit.laid.SHARD", 40_000)
    out = merged(tmp_path, recipe(models, "task_arithmetic"), How())
    assert len(out.shards) > 2 and set(out) == set(Checkpoint(models["base"]))
    w = weights(models, UP.format(1))
    assert torch.allclose(out[UP.format(1)], w["a"] + w["b"] - w["base"], atol=1e-6)


def test_task_arithmetic_with_dtype_and_verification(models: dict[str, Path], tmp_path: Path) -> None:
    wanted = recipe(models, "task_arithmetic", a={"weight": 0.5}, b={"weight": [{"filter": "mlp", "value": -1.0}, {"value": 0.25}]})
    out = merged(tmp_path, wanted | {"parameters": {"lambda": 0.5}, "dtype": "bfloat16"}, How())
    for name, b in ((UP.format(1), -1.0), (Q.format(0), 0.25)):
        w = weights(models, name)
        exact = w["base"] + 0.5 * (0.5 * (w["a"] - w["base"]) + b * (w["b"] - w["base"]))
        assert out.dtype(name) == torch.bfloat16 and torch.allclose(out[name].float(), exact, rtol=2**-8, atol=1e-6)
    assert json.loads((tmp_path / "out" / "metier.json").read_text())["verified"]["gap"] == 0


def test_a_filter_that_fits_no_tensor_is_warned_of(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"filter": "atention", "value": 0.0}, {"filter": "mlp", "value": 0.5}, {"value": 1.0}]
    merged(tmp_path, recipe(models, "task_arithmetic", a={"weight": rows}))
    said = capsys.readouterr().err
    assert "no tensor's name contains the filter of weight: atention: it has no effect" in said and "mlp" not in said


def keep_largest(change: Tensor, density: float) -> Tensor:
    flat = change.reshape(-1)
    kept = torch.zeros_like(flat)
    order = flat.abs().argsort(descending=True, stable=True)[: round(density * len(flat))]
    kept[order] = flat[order]
    return kept.view(change.shape)


@pytest.mark.parametrize("normalize", [True, False])
def test_ties_with_a_density_for_each(models: dict[str, Path], tmp_path: Path, normalize: bool) -> None:
    wanted = recipe(models, "ties", a={"weight": 1.0, "density": 0.5}, b={"weight": 0.5, "density": [0.2, 0.8]})
    out = merged(tmp_path, wanted | {"parameters": {"normalize": normalize, "int8_mask": True}})
    for layer, density in ((0, 0.2), (1, 0.8)):
        w = weights(models, UP.format(layer))
        a, b = keep_largest(w["a"] - w["base"], 0.5), 0.5 * keep_largest(w["b"] - w["base"], density)
        sign = (a + b).sign()
        agree = [(x != 0) & (x.sign() == sign) for x in (a, b)]
        divisor = (agree[0] + 0.5 * agree[1]).clamp(min=0.5) if normalize else 1.0
        exact = w["base"] + (a * agree[0] + b * agree[1]) / divisor
        assert torch.allclose(out[UP.format(layer)], exact, atol=1e-6)


def test_slerp_with_a_gradient(models: dict[str, Path], tmp_path: Path) -> None:
    wanted = {"merge_method": "slerp", "base_model": str(models["a"]), "dtype": "float32"}
    wanted["slices"] = [{"sources": [{"model": str(models[n]), "layer_range": [0, 2]} for n in ("a", "b")]}]
    wanted["parameters"] = {"t": [{"filter": "self_attn", "value": [0, 1]}, {"value": 0.5}]}
    out = merged(tmp_path, wanted)
    for layer, kept in ((0, "a"), (1, "b")):
        assert torch.allclose(out[Q.format(layer)], weights(models, Q.format(layer))[kept], atol=1e-5)
    w = weights(models, UP.format(0))
    a, b = w["a"].flatten(), w["b"].flatten()
    angle = torch.acos(torch.dot(a / a.norm(), b / b.norm()))
    exact = (torch.sin(angle / 2) * (a + b) / torch.sin(angle)).view(w["a"].shape)
    assert torch.allclose(out[UP.format(0)], exact, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("dare_ties", {"a": {"density": 0.5}, "b": {"density": 0.6}}), ("dare_linear", {"parameters": {"density": 0.5, "rescale": False}}),
        ("della", {"parameters": {"density": 0.5, "epsilon": 0.1}}), ("della_linear", {}), ("breadcrumbs", {"parameters": {"density": 0.9}}),
        ("breadcrumbs_ties", {"parameters": {"gamma": 0.0, "density": 0.5}}), ("model_stock", {}), ("sce", {"parameters": {"select_topk": 0.5}}),
        ("nuslerp", {"parameters": {"nuslerp_flatten": False}}), ("multislerp", {}),
        ("karcher", {"parameters": {"tol": "1e-6"}}),
    ],
)  # fmt: skip
def test_every_other_method_runs(models: dict[str, Path], tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    out = merged(tmp_path, recipe(models, method, **more))
    w = weights(models, UP.format(0))
    assert bool(out[UP.format(0)].isfinite().all()) and not torch.equal(out[UP.format(0)], w["base"])


@pytest.mark.parametrize(("method", "boost"), [("ram", 0.0), ("ramplus_tl", 0.5)])
def test_ram(models: dict[str, Path], tmp_path: Path, method: str, boost: float) -> None:
    """Changes of one model alone grow with what it shares, those of both are averaged."""
    wanted = {"epsilon": "2e-2"} | ({"r": boost, "alpha": 0.7} if boost else {})
    out, w = merged(tmp_path, recipe(models, method, parameters=wanted)), weights(models, UP.format(0))
    changes = torch.stack([w["a"] - w["base"], w["b"] - w["base"]])
    there = changes.abs() > 0.02
    shared, alone = there & there.all(0), there & ~there.all(0)
    assert bool(shared.any()) and bool(alone.any())
    factors = 1 + boost * (shared.sum((1, 2)) / alone.sum((1, 2))).clamp(max=0.7)
    exact = w["base"] + (changes * alone * factors.view(2, 1, 1) + changes * shared / 2).sum(0)
    assert torch.allclose(out[UP.format(0)], exact, atol=1e-5)


@pytest.mark.parametrize("method", ["nearswap", "arcee_fusion"])
def test_methods_of_one_model_beside_the_base(models: dict[str, Path], tmp_path: Path, method: str) -> None:
    wanted = {
        "merge_method": method,
        "base_model": str(models["base"]),
        "models": [{"model": str(models["a"])}, {"model": str(models["base"])}],
    }
    out = merged(tmp_path, wanted | ({"parameters": {"t": 0.01}} if method == "nearswap" else {}))
    assert not torch.equal(out[UP.format(0)], weights(models, UP.format(0))["base"])


def test_passthrough_stacks_layers(models: dict[str, Path], tmp_path: Path) -> None:
    scaled = {"parameters": {"scale": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}]}}
    parts = [("a", [0, 2], {}), ("b", [1, 2], scaled), ("a", [0, 1], {})]
    wanted = {"merge_method": "passthrough"}
    wanted |= {"slices": [{"sources": [{"model": str(models[m]), "layer_range": r} | more]} for m, r, more in parts]}  # type: ignore[dict-item]
    out = merged(tmp_path, wanted, How())
    for at, (model, layer, factor) in enumerate((("a", 0, 1.0), ("a", 1, 1.0), ("b", 1, 0.5), ("a", 0, 1.0))):
        assert torch.equal(out[UP.format(at)], factor * weights(models, UP.format(layer))[model])
        assert torch.equal(out[Q.format(at)], weights(models, Q.format(layer))[model])
    assert out.config["num_hidden_layers"] == 4 and len(load_base(tmp_path / "out", device="cpu").model.model.layers) == 4


def grown(models: dict[str, Path], place: Path, tokens: list[str]) -> Path:
    """Model a with tokens added to its vocabulary."""
    base = load_base(models["a"], device="cpu")
    base.tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    with torch.random.fork_rng():
        base.model.resize_token_embeddings(len(base.tokenizer), mean_resizing=False)
    base.model.save_pretrained(place)
    base.tokenizer.save_pretrained(place)
    return place


def test_what_to_do_where_one_model_has_resized_its_vocabulary(models: dict[str, Path], tmp_path: Path) -> None:
    """The message names a recipe, and the recipe makes a model that diff takes."""
    base, other = Checkpoint(models["base"]), Checkpoint(grown(models, tmp_path / "other", ["<y>", "<x>"]))
    rows = len(base[EMBED])
    says = rf"has rows for {rows + 2} tokens, the base for {rows}.*from-mergekit.*tokenizer_source: union, .*linear with this one model"
    for opening in (lambda: diff(base, other), lambda: opened(other.path, base, missing="skip")):
        with pytest.raises(ShapeMismatch, match=says):
            opening()
    wanted = {"merge_method": "linear", "base_model": str(base.path), "models": [{"model": str(other.path)}], "tokenizer_source": "base"}
    out = merged(tmp_path, wanted, How())
    delta = diff(base, out)
    assert torch.equal(delta[EMBED].dense(), other[EMBED][:rows] - base[EMBED])


def test_the_union_of_vocabularies(models: dict[str, Path], tmp_path: Path) -> None:
    one, other = grown(models, tmp_path / "one", ["<x>"]), grown(models, tmp_path / "other", ["<y>", "<x>"])
    found = {"base": models["base"], "a": one, "b": other}
    wanted = recipe(found, "linear", a={"weight": 1}, b={"weight": 3})
    with pytest.raises(ShapeMismatch, match="embed_tokens.weight' has shape .*Say tokenizer_source: union"):
        merged(tmp_path, wanted)
    out = merged(tmp_path, wanted | {"tokenizer_source": "union"}, How())
    n = len(Checkpoint(models["base"])[EMBED])
    a, b = Checkpoint(one)[EMBED], Checkpoint(other)[EMBED]
    tokenizer = load_base(tmp_path / "out", device="cpu").tokenizer
    assert out[EMBED].shape[0] == n + 2 and tokenizer.convert_tokens_to_ids(["<x>", "<y>"]) == [n, n + 1]
    assert torch.allclose(out[EMBED][:n], 0.25 * a[:n] + 0.75 * b[:n], atol=1e-6)
    assert torch.allclose(out[EMBED][n], 0.25 * a[n] + 0.75 * b[n + 1], atol=1e-6), "'<x>' has different places in the two"
    assert torch.allclose(out[EMBED][n + 1], b[n], atol=1e-6), "'<y>' is the other's alone"


def test_the_tokenizer_of_the_base(models: dict[str, Path], tmp_path: Path) -> None:
    found = models | {"a": grown(models, tmp_path / "one", ["<x>"])}
    out = merged(tmp_path, recipe(found, "ties") | {"tokenizer": {"source": "base", "pad_to_multiple_of": 64}})
    assert out[EMBED].shape[0] % 64 == 0 and out.config["vocab_size"] == out[EMBED].shape[0]


def test_an_adapter_as_a_model(models: dict[str, Path], tmp_path: Path) -> None:
    adapter(tiny_causal(), tmp_path / "lora")
    wanted = recipe(models, "task_arithmetic")
    wanted["models"] = [{"model": f"{models['base']}+{tmp_path / 'lora'}", "parameters": {"weight": 0.5}}]
    out, name = merged(tmp_path, wanted), Q.format(0)
    change = out[name] - weights(models, name)["base"]
    assert 0 < int(torch.linalg.matrix_rank(change, rtol=1e-3)) <= 4


def test_all_that_is_not_supported_is_named_at_once(models: dict[str, Path], tmp_path: Path) -> None:
    wanted = recipe(models, "tise", a={"density": "many"}) | {"dtype": "int4", "modules": {}, "tokenizer": {"source": "base", "tokens": {}}}
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(wanted))
    with pytest.raises(UserError) as error:
        prepare(tmp_path / "recipe.yml")
    text = str(error.value)
    assert all(
        word in text for word in ("'tise' is not supported. Did you mean 'ties'?", "'modules'", "'int4'", "tokenizer: 'tokens'", "many")
    )
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe(models, "ties", base=False, a={"dencity": 0.5})))
    with pytest.raises(UserError, match=r"(?s)'dencity' of ties is not supported. Did you mean 'density'.*needs base_model"):
        prepare(tmp_path / "recipe.yml")
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump(recipe(models, "ties", a={"density": 1.5})))
    with pytest.raises(UserError, match=r"density must be in \(0, 1\]"):
        prepare(tmp_path / "recipe.yml")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"slices": []}, "slices must be a list"), ({"slices": 3}, "slices must be a list"),
        ({"models": [{"model": "A"}, {"model": "B"}, {"model": "A"}]}, "names A twice"),
        ({"models": [{"model": {"model": {"path": "A", "revision": "main"}}}]}, "unsupported entry 'revision'"),
        ({"models": [{"model": {"path": "A", "revision": "main"}}]}, "unsupported entry 'revision'"),
        ({"models": [{"model": "A"}], "tokenizer": {"source": "base", "pad_to_multiple_of": "x"}}, "whole number, 1 or more; got 'x'"),
        ({"models": [{"model": "A"}], "tokenizer": {"source": "base", "pad_to_multiple_of": 0}}, "whole number, 1 or more; got 0"),
    ],
)  # fmt: skip
def test_slips_of_a_recipe(tmp_path: Path, wanted: dict[str, Any], words: str) -> None:
    (tmp_path / "recipe.yml").write_text(yaml.safe_dump({"merge_method": "linear"} | wanted))
    with pytest.raises(UserError, match=words):
        prepare(tmp_path / "recipe.yml")


def test_other_models_and_no_change(models: dict[str, Path], tmp_path: Path) -> None:
    wide = models | {"b": Path(tiny_causal(hidden=48).path)}
    with pytest.raises(ShapeMismatch, match="has shape"):
        merged(tmp_path, recipe(wide, "ties"))
    deep = {"merge_method": "passthrough", "slices": [{"sources": [{"model": str(models["a"]), "layer_range": [1, 5]}]}]}
    with pytest.raises(KeyMismatch, match=r"has 2 layers; the recipe's layer_range \[1, 5\] ends after them"):
        merged(tmp_path, deep)
    with pytest.raises(UserError, match="no change reaches it"):
        merged(tmp_path, recipe(models, "task_arithmetic", a={"weight": 0.0}, b={"weight": 0.0}))
    assert not (tmp_path / "out").exists()
