"""Pretraining: strict recipes, a folder transformers loads without a warning, runs that resume to the same bytes."""

import dataclasses
import json
import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from metier.errors import Diverged, UserError
from metier.model import load_base
from metier.train import pretrain_data, pretrain_run
from metier.train.muon import orthogonal
from metier.train.pretrain import pretrain
from metier.train.pretrain_recipe import RECIPES, Training, load
from metier.train.pretrain_run import halve, rate

SMALL = {
    "name": "small",
    "version": 1,
    "model": {"hidden": 32, "layers": 1, "heads": 1, "mlp": 48, "context": 64},
    "tokenizer": {"size": 400, "documents": 200},
    "data": {"tokens": 20000, "held_out": 3000, "shares": {"facts": 0.7, "instructions": 0.2, "code": 0.1}, "answer_weight": 3.0},
    "training": {"tokens": 10240, "minutes": 100, "optimiser": "muon", "batch_tokens": 512, "halved": 0.5, "threads": 1, "precision": "float32",
                 "checkpoint_minutes": 1e-9, "eval_minutes": 1e-9},
}  # fmt: skip


def written(folder: Path, **changes) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    return pretrain(written(folder), folder / "out")


def test_loads_offline_without_a_warning(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = AutoTokenizer.from_pretrained(made)
        model = AutoModelForCausalLM.from_pretrained(made)
    assert next(model.parameters()).dtype is torch.bfloat16
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id == 0
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tokenizer.vocab_size == model.config.vocab_size == 400


def test_tokenizer_puts_bos_in_front_and_keeps_text(made):
    tokenizer = AutoTokenizer.from_pretrained(made)
    text = "Question: Where?\nAnswer: Paris, naïve  spaces\n\n"
    assert tokenizer(text)["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer(text)["input_ids"][1:] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<|user|>Hi\n<|assistant|>"
    assert len(tokenizer("<|user|>", add_special_tokens=False)["input_ids"]) == 1


def test_card_and_curve(made):
    curve = [json.loads(line) for line in (made / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["tokens"] == 10240
    assert curve[-1]["eval_loss"] < curve[0]["eval_loss"] < math.log(400) + 0.3
    card = (made / "CARD.md").read_text()
    assert "hidden: 32" in card
    assert f"{curve[-1]['tokens']:,}" in card


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(made, tmp_path):
    class Killed(Exception):
        pass

    def kill(line):
        if line["step"] >= 9:
            raise Killed

    recipe = written(tmp_path)
    with pytest.raises(Killed):
        pretrain(recipe, tmp_path / "out", report=kill)
    assert not (tmp_path / "out").exists()
    steps = []
    pretrain(recipe, tmp_path / "out", report=lambda line: steps.append(line["step"]))
    assert steps[0] == 9
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (made, tmp_path / "out"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_another_recipe_refuses_the_checkpoint_unless_told_to_start_afresh(tmp_path):
    pretrain(written(tmp_path), tmp_path / "out")
    other = written(tmp_path, model={**SMALL["model"], "mlp": 64})
    with pytest.raises(UserError, match="another recipe"):
        pretrain(other, tmp_path / "out")
    pretrain(other, tmp_path / "out", resume=False)


def test_a_folder_of_something_else_is_not_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not a pretrained base"):
        pretrain(written(tmp_path), tmp_path / "out")


def test_unknown_and_missing_keys_are_all_named(tmp_path):
    wrong = {**SMALL, "trainig": {}, "model": {"hiden": 3, "layers": 1, "heads": 1, "mlp": 4}}
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(wrong))
    with pytest.raises(UserError) as error:
        load(path)
    assert all(word in str(error.value) for word in ("'trainig'", "Did you mean 'training'", "'model.hiden'", "missing key 'model.hidden'"))


@pytest.mark.parametrize("changes", [{"hidden": 33, "heads": 2}, {"layers": 0}, {"mlp": 1.5}, {"mlp": "64"}])
def test_bad_shapes_are_refused(tmp_path, changes):
    with pytest.raises(UserError, match=r"model\."):
        load(written(tmp_path, model={**SMALL["model"], **changes}))


def test_unknown_recipe_names_the_packaged_ones(tmp_path):
    with pytest.raises(UserError, match=", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))):
        pretrain(Path("tinny"), tmp_path / "out")


def test_a_recipe_extends_one_beside_it_or_a_packaged_one(tmp_path):
    def extending(name):
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": name, "name": "mine", "model": {"layers": 2}}))
        return load(tmp_path / "mine.yaml")

    packaged, mine = load(RECIPES / "tiny.yaml"), extending("tiny")
    assert (mine.data, mine.model) == (packaged.data, dataclasses.replace(packaged.model, layers=2))
    (tmp_path / "tiny").mkdir()  # a base's folder, say: no recipe
    assert extending("tiny").model.layers == 2
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**SMALL, "model": {**SMALL["model"], "mlp": 96}}))
    assert extending("tiny.yaml").model.mlp == 96
    with pytest.raises(UserError, match=r"mine\.yaml: extends: tinny: no such recipe.* Did you mean 'tiny'"):
        extending("tinny")
    with pytest.raises(UserError, match="Is there a circle"):
        extending("mine.yaml")


def test_packaged_recipes_share_text_and_tokenizer():
    tiny, nano = (load(RECIPES / f"{name}.yaml") for name in ("tiny", "nano"))
    assert tiny.digest("tokenizer", "data") == nano.digest("tokenizer", "data")
    assert tiny.digest() != nano.digest()


@pytest.mark.slow
def test_two_workers_learn_as_one_does(made, tmp_path, monkeypatch):
    """Averaged gradients of two halves of a batch: the same run up to rounding. They meet in a folder named as from where one stands."""
    training = {**SMALL["training"], "workers": 2}
    recipe = written(tmp_path, training=training)
    monkeypatch.chdir(tmp_path)
    pretrain(recipe, Path("out"))
    one, two = (json.loads((folder / "curve.jsonl").read_text().splitlines()[-1]) for folder in (made, tmp_path / "out"))
    assert one["tokens"] == two["tokens"]
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], abs=0.1)


@pytest.mark.slow
def test_divergence_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_run, "weighted_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(Diverged, match="Lower training.learning_rate"):
        pretrain(written(tmp_path), tmp_path / "out")


def test_rate_warms_up_and_decays():
    training = Training(tokens=1, warmup=0.1, learning_rate=1.0, final_rate=0.1)
    assert rate(training, 0.05) == pytest.approx(0.5)
    assert rate(training, 0.1) == pytest.approx(1.0)
    assert rate(training, 1.0) == pytest.approx(0.1)
    rates = [rate(training, p) for p in np.linspace(0.1, 1, 30)]
    assert rates == sorted(rates, reverse=True)


def test_answer_spans_include_the_line_end():
    pattern = re.compile(r"^(?:Answer):( .*)$", re.MULTILINE)
    text = "Question: x\nAnswer: yes\n\nAnswer: no"
    assert [text[a:b] for a, b in pretrain_data.answers(text, pattern)] == [" yes\n", " no"]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 5), (1, 4, 12)])
def test_orthogonal_has_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
    assert values.min() > 0.4
    assert values.max() < 1.4


def test_halved_rows_have_the_same_targets():
    tokens, weights = torch.arange(18).reshape(2, 9), torch.arange(16.0).reshape(2, 8)
    rows, parts = halve(tokens, weights)
    before = {(t.item(), w.item()) for t, w in zip(tokens[:, 1:].flatten(), weights.flatten(), strict=True)}
    assert before == {(t.item(), w.item()) for t, w in zip(rows[:, 1:].flatten(), parts.flatten(), strict=True)}


def test_a_pretrained_base_is_not_shown_chats_unless_asked(made):
    assert not load_base(made).chat and load_base(made, chat=True).chat
