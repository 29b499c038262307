"""Kin: other vocabularies, other configurations, adapters of another base and surplus layers are refused, naming the files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.conftest import Run, run  # noqa: F401  (a fixture)
from tests.merge.models import adapter, checkpoint, noise
from tests.tiny import tiny_causal, tiny_encoder

from metier.delta import Checkpoint
from metier.errors import BaseMismatch, KeyMismatch, UserError
from metier.merge._experts import open_experts, opened
from metier.merge._kin import same_configuration, same_vocabulary
from metier.model import Base, Specialist, load_base

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def base() -> Base:
    return tiny_causal()


def edited(place: Path, edit: Edit) -> Path:
    found = json.loads(place.read_text(encoding="utf-8"))
    edit(found)
    place.write_text(json.dumps(found), encoding="utf-8")
    return place.parent


def swap(words: dict[str, Any]) -> None:
    vocabulary = words["model"]["vocab"]
    a, b = list(vocabulary)[300:302]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]


def add(text: str, at: int = 400) -> Edit:
    return lambda words: words["added_tokens"].append(words["added_tokens"][0] | {"content": text, "id": at})


def rename(words: dict[str, Any]) -> None:
    vocabulary = words["model"]["vocab"]
    vocabulary["<another>"] = vocabulary.pop(list(vocabulary)[300])


RECIPE = "merge_method: linear\nmodels:\n- {model: swapped, parameters: {weight: 0.5}}\n- {model: other, parameters: {weight: 0.5}}\n"


@pytest.mark.parametrize(
    "words",
    [("delta", "diff", "BASE", "swapped"), ("delta", "fold", "BASE", "swapped"), ("merge", "ties", "other", "swapped", "-b", "BASE"),
     ("merge", "slerp", "swapped", "other", "-b", "BASE"), ("merge", "from-mergekit", "recipe.yml")],
)  # fmt: skip
def test_swapped_tokens_are_refused_before_anything_is_written(run: Run, base: Base, words: tuple[str, ...]) -> None:  # noqa: F811
    edited(checkpoint(base, Path("swapped"), noise(1)) / "tokenizer.json", swap)
    checkpoint(base, Path("other"), noise(2))
    Path("recipe.yml").write_text(RECIPE)
    before = set(Path().iterdir())
    seen = run(*(base.path if w == "BASE" else w for w in words), "-o", "out", "--no-verify")
    assert seen.code == 2 and seen.err.count("tokenizer.json") == 2 and "swapped/tokenizer.json" in seen.err, seen.err
    assert "is 300, there 301" in seen.err and "is 301, there 300" in seen.err and "tokenizer_source" in seen.err
    assert set(Path().iterdir()) == before


def test_a_recipe_with_a_tokenizer_source_takes_them(run: Run, base: Base) -> None:  # noqa: F811
    edited(checkpoint(base, Path("swapped"), noise(1)) / "tokenizer.json", swap)
    checkpoint(base, Path("other"), noise(2))
    Path("recipe.yml").write_text(RECIPE + "tokenizer_source: swapped\n")
    seen = run("merge", "from-mergekit", "recipe.yml", "-o", "out", "--no-verify")
    assert seen.code == 0, seen.err


def test_tokens_at_the_end_and_padding_are_no_difference(tmp_path: Path, base: Base) -> None:
    one = edited(checkpoint(base, tmp_path / "one", noise(1)) / "tokenizer.json", add("<im>"))
    edited(one / "tokenizer.json", lambda words: words.update(padding={"strategy": "BatchLongest"}))
    assert len(opened(one, Checkpoint(base.path)))
    assert len(open_experts([str(one)], Specialist(base))[0]) == 1
    other = edited(checkpoint(base, tmp_path / "other", noise(2)) / "tokenizer.json", add("<tool>"))
    with pytest.raises(
        UserError, match=r"other/tokenizer.json: another vocabulary than .*one/tokenizer.json: 400 is '<tool>', there '<im>'"
    ):
        open_experts([str(one), str(other)], Specialist(base))
    renamed = edited(checkpoint(base, tmp_path / "renamed", noise(1)) / "tokenizer.json", rename)
    with pytest.raises(UserError, match=r"300 is '<another>', there "):
        opened(renamed, base)
    (renamed / "tokenizer.json").unlink()
    assert len(opened(renamed, base)), "where one has no tokenizer there is nothing to compare"


def test_experts_with_two_tokens_of_one_id_are_refused_together(run: Run, base: Base) -> None:  # noqa: F811
    edited(checkpoint(base, Path("one"), noise(1)) / "tokenizer.json", add("<im>"))
    edited(checkpoint(base, Path("two"), noise(2)) / "tokenizer.json", add("<tool>"))
    seen = run("merge", "linear", "one", "two", "-b", base.path, "-o", "out", "--no-verify")
    assert seen.code == 2 and "400 is '<tool>', there '<im>'" in seen.err and not Path("out").exists()


def test_a_reserved_token_may_be_named_but_not_twice(tmp_path: Path) -> None:
    def words(name: str, *texts: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(texts)}))
        return tmp_path / name

    base, one = words("base", "a", "<|reserved_special_token_0|>", "b"), words("one", "a", "<|im_start|>", "b")
    same_vocabulary(base, one, words("plain", "a", "<unused0>", "b"))
    with pytest.raises(UserError, match=r"two/vocab.json: another vocabulary than .*one/vocab.json: 1 is '<tool>', there '<\|im_start\|>'"):
        same_vocabulary(base, one, words("two", "a", "<tool>", "b"))
    with pytest.raises(UserError, match="'b' is 1, there 2"):
        same_vocabulary(base, words("moved", "a", "b", "<|reserved_special_token_0|>"))


def test_an_adapter_with_a_tokenizer_of_its_own(tmp_path: Path, base: Base) -> None:
    place = adapter(base, tmp_path / "lora")
    shutil.copyfile(Path(base.path) / "tokenizer.json", place / "tokenizer.json")
    assert len(opened(place, Checkpoint(base.path)))
    edited(place / "tokenizer.json", swap)
    with pytest.raises(UserError, match=r"lora/tokenizer.json: another vocabulary"):
        opened(place, Checkpoint(base.path))


@pytest.mark.parametrize("kind", ["unigram", "vocab.json", "vocab.txt"])
def test_other_files_of_vocabularies(tmp_path: Path, kind: str) -> None:
    def written(name: str, texts: list[str], more: dict[str, int]) -> Path:
        (folder := tmp_path / name).mkdir()
        if kind == "unigram":
            added = [{"content": t, "id": i} for t, i in more.items()]
            words = {"model": {"type": "Unigram", "vocab": [[t, -1.0] for t in texts]}, "added_tokens": added}
            (folder / "tokenizer.json").write_text(json.dumps(words))
            return folder
        (folder / kind).write_text("\n".join(texts) if kind == "vocab.txt" else json.dumps({t: i for i, t in enumerate(texts)}))
        (folder / "added_tokens.json").write_text(json.dumps(more))
        return folder

    base = written("base", ["a", "b", "c"], {})
    same_vocabulary(base, written("more", ["a", "b", "c"], {"<im>": 3}))
    with pytest.raises(UserError, match="'c' is 1, there 2; 'b' is 2, there 1"):
        same_vocabulary(base, written("swapped", ["a", "c", "b"], {}))
    with pytest.raises(UserError, match="3 is '<tool>', there '<im>'"):
        same_vocabulary(base, tmp_path / "more", written("tool", ["a", "b", "c"], {"<tool>": 3}))
    damaged = written("damaged", ["a"], {})
    next(damaged.iterdir()).write_bytes(b"{")
    if kind != "vocab.txt":
        with pytest.raises(UserError, match="damaged/.*cannot be read"):
            same_vocabulary(base, damaged)


def configured(place: Path, edit: Edit) -> Path:
    return edited(place / "config.json", edit)


@pytest.mark.parametrize(
    ("field", "value"), [("num_attention_heads", 8), ("num_key_value_heads", 1), ("hidden_act", "relu"), ("num_hidden_layers", 3)]
)
def test_what_weights_mean_is_the_same(run: Run, base: Base, field: str, value: Any) -> None:  # noqa: F811
    place = configured(checkpoint(base, Path("tuned"), noise(1)), lambda c: c.update({field: value}))
    checkpoint(base, Path("other"), noise(2))
    Path("recipe.yml").write_text(RECIPE.replace("swapped", "tuned"))
    for words in (
        ("delta", "diff", base.path, place),
        ("merge", "linear", place, "-b", base.path),
        ("merge", "from-mergekit", "recipe.yml"),
    ):
        seen = run(*words, "-o", "out", "--no-verify")
        assert seen.code == 2 and f"config.json: {field} is" in seen.err and not Path("out").exists(), seen.err
        assert repr(value) in seen.err and "tuned/config.json" in seen.err
    with pytest.raises(UserError, match=field):
        opened(place, base)


def test_what_a_model_computes_otherwise_is_warned_of(run: Run, base: Base) -> None:  # noqa: F811
    place = configured(
        checkpoint(base, Path("tuned"), noise(1)), lambda c: c.update(rope_parameters={"rope_theta": 5e5}, rms_norm_eps=1e-5)
    )
    seen = run("delta", "diff", base.path, place, "-o", "d", "--no-verify")
    assert seen.code == 0, seen.err
    assert f"warning    tuned/config.json: rope_theta is 500000.0, in {base.path}/config.json 10000.0" in seen.err
    assert "rms_norm_eps is 1e-05" in seen.err and seen.err.count("warning") == 2


def test_what_tuned_models_differ_in_anyway(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def folder(name: str, **facts: Any) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(facts))
        return tmp_path / name

    plain = {"hidden_act": "silu", "use_sliding_window": False, "num_hidden_layers": 2, "text_config": {"num_attention_heads": 4}}
    base = folder("base", **plain, sliding_window=4, num_key_value_heads=None, dtype="bfloat16", attention_dropout=0.1, eos_token_id=1)
    rest: dict[str, Any] = {"dtype": "float32", "attention_dropout": 0.0, "eos_token_id": [1, 2], "vocab_size": 9, "use_cache": False}
    rest |= {"max_position_embeddings": 9, "rope_scaling": {"factor": 4.0}, "num_key_value_heads": 4, "sliding_window": 8}
    same_configuration(base, folder("tuned", **plain | rest | {"hidden_act": "swish"}))
    same_configuration(base, folder("deep", **plain | {"num_hidden_layers": 3}), layers=False)
    same_configuration(base, tmp_path)
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match=r"text_config.num_attention_heads is 8, in .* 4"):
        same_configuration(base, folder("wide", **plain | {"text_config": {"num_attention_heads": 8}}))


def test_an_adapter_is_of_the_base_that_it_names(run: Run, base: Base, tmp_path: Path) -> None:  # noqa: F811
    place = adapter(base, Path("lora"))
    other = checkpoint(base, Path("other"), noise(1))
    for wrong in (Checkpoint(other), load_base(str(other), device="cpu")):
        with pytest.raises(BaseMismatch, match=r"lora/adapter_config.json: was tuned on the base .*--allow-base"):
            opened(place, wrong)
    seen = run("delta", "fold", other, place, "-o", "out", "--no-verify")
    assert (
        seen.code == 2 and base.path in seen.err and f"--experts {place} --allow-base {base.path}" in seen.err and not Path("out").exists()
    )
    copies = [checkpoint(base, Path("copy")), checkpoint(base, Path("half"), dtype=torch.bfloat16, shards=2)]
    assert all(len(opened(place, Checkpoint(c))) for c in copies), "a copy of the base, also rounded, is the base"
    assert len(opened(place, load_base("copy", device="cpu")))
    for name in ("nobody/knows", "metier-nowhere", ""):
        edited(place / "adapter_config.json", lambda c, name=name: c.update(base_model_name_or_path=name))  # type: ignore[misc]
        assert opened(place, Checkpoint(other)).provenance["settings"]["tuned_on"] == name
    edited(place / "adapter_config.json", lambda c: c.update(base_model_name_or_path="metier-nano"))
    with pytest.raises(BaseMismatch, match="was tuned on the base metier-nano"):
        opened(place, Checkpoint(base.path))


@pytest.mark.parametrize("make", [tiny_causal, tiny_encoder])
def test_a_tensor_of_a_layer_that_the_base_lacks(tmp_path: Path, make: Callable[[], Base]) -> None:
    base = make()
    place = checkpoint(base, tmp_path / "tuned", noise(1)) / "model.safetensors"
    stack = "model.layers" if base.family == "causal" else "encoder.layer"
    tensors = load_file(place)
    save_file(tensors | {f"{stack}.0.self_attn.rotary_emb.inv_freq": torch.ones(2), "score.weight": torch.ones(2, 2)}, place)
    assert all(len(opened(place.parent, b)) for b in (Checkpoint(base.path), base))
    for name in (f"{stack}.9.mlp.up_proj.weight", f"{stack}.1.adapter.weight"):
        save_file(tensors | {name: torch.ones(2, 2)}, place)
        for where in (Checkpoint(base.path), base):
            with pytest.raises(KeyMismatch, match=f"tuned/model.safetensors: has '{name}', which the base lacks"):
                opened(place.parent, where)
