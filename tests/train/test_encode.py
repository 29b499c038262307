"""Encoders: strict recipes, the loss, a folder that retrieval loads and that finds better than chance, runs that resume to the same bytes."""

import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.nn.functional import normalize

from metier.errors import Diverged, UserError
from metier.model import Specialist, load_base
from metier.train import encode_run
from metier.train.encode_recipe import Contrast, Pairs, load
from metier.train.encode_run import Stream, contrast, rate
from metier.train.pretrain import pretrain
from metier.train.pretrain_recipe import RECIPES, kind
from metier.train.pretrain_recipe import load as load_decoder

SMALL = {
    "kind": "encoder",
    "name": "small",
    "version": 1,
    "tokenizer": "metier-tiny",
    "model": {"hidden": 32, "layers": 1, "heads": 1, "mlp": 48, "context": 128},
    "data": {"shares": {"library": 0.5, "facts": 0.5}, "held_out": 20},
    "training": {"steps": 12, "minutes": 100, "batch": 16, "learning_rate": 3e-3, "checkpoint_minutes": 1e-9, "eval_minutes": 1e-9},
}


def written(folder: Path, **changes) -> Path:
    content = {**SMALL, **{k: {**SMALL[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encode")
    return pretrain(written(folder), folder / "out")


def test_is_loaded_as_an_encoder_and_embeds_as_it_was_trained(made):
    base = load_base(made)
    assert (base.family, base.max_length, base.chat) == ("encoder", 128, False)
    texts = ["repair of a small boat", "Where does Ban Tasokin live? " * 30]
    vectors = Specialist(base).embed(texts)
    rows = [base.encode(text)[:128] for text in texts]
    with torch.no_grad():
        assert torch.allclose(vectors, encode_run.embed(base.model, rows), atol=1e-5)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


def test_tokenizer_is_that_of_the_named_base(made):
    text = "The mayor of Tasokin,  naïve\n"
    assert load_base(made).encode(text) == load_base("metier-tiny").encode(text)


def test_curve_and_card(made):
    curve = [json.loads(line) for line in (made / "curve.jsonl").read_text().splitlines()]
    assert curve[-1]["step"] == 12 and curve[-1]["pairs"] == 192
    assert curve[-1]["train_loss"] < curve[0]["train_loss"] < math.log(32) + 1
    card = (made / "CARD.md").read_text()
    assert "192 pairs" in card and "hidden: 32" in card and "| pairs | minutes | train loss | found, library | found, facts |" in card


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(made, tmp_path):
    class Killed(Exception):
        pass

    def kill(line):
        if line["step"] == 5:
            raise Killed

    recipe = written(tmp_path)
    with pytest.raises(Killed):
        pretrain(recipe, tmp_path / "out", report=kill)
    again = pretrain(recipe, tmp_path / "out")
    one, two = (load_file(folder / "model.safetensors") for folder in (made, again))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    steps = [json.loads(line)["step"] for line in (again / "curve.jsonl").read_text().splitlines()]
    assert steps[-1] == 12 and steps == sorted(set(steps))


@pytest.mark.slow
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    pretrain(written(tmp_path, training={"steps": 2}), tmp_path / "out")
    with pytest.raises(UserError, match="belongs to another recipe"):
        pretrain(written(tmp_path, training={"steps": 3}), tmp_path / "out")
    pretrain(written(tmp_path, training={"steps": 3}), tmp_path / "out", resume=False)


def test_kept_encoders_are_whole(tmp_path):
    pretrain(written(tmp_path, training={"steps": 4, "keep": [0.5]}), tmp_path / "out")
    half = tmp_path / "out.checkpoints" / "0.5"
    assert load_base(half).family == "encoder"
    assert "32 pairs" in (half / "CARD.md").read_text()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="is not a pretrained base"):
        pretrain(written(tmp_path), tmp_path / "out")


def test_divergence_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(encode_run, "contrast", lambda queries, texts, temperature: queries.sum() * float("nan"))
    with pytest.raises(Diverged, match=r"small: the loss is nan at step 0\. Lower"):
        pretrain(written(tmp_path), tmp_path / "out")


def test_contrast_is_the_mean_negative_log_share_of_the_fitting_text():
    torch.manual_seed(0)
    queries, texts = normalize(torch.randn(3, 8), dim=1), normalize(torch.randn(6, 8), dim=1)
    naive = 0.0
    for i in range(3):
        shares = [math.exp(float(queries[i] @ text) / 0.1) for text in texts]
        naive -= math.log(shares[i] / sum(shares)) / 3
    assert contrast(queries, texts, 0.1).item() == pytest.approx(naive, rel=1e-5)


def test_padding_does_not_matter():
    torch.manual_seed(0)
    model = encode_run.make_model(load(RECIPES / "encoder.yaml"), 300).eval()
    short, long = [1, 5, 9], [1, *range(10, 60)]
    with torch.no_grad():
        assert torch.allclose(encode_run.embed(model, [short, long])[0], encode_run.embed(model, [short])[0], atol=1e-5)


def test_stream_is_seeded_skips_and_holds_out():
    data = Pairs(shares={"facts": 0.5, "library": 0.5}, held_out=10)
    one, two = Stream(data, 8), Stream(data, 8)
    drawn = [one.next() for _ in range(6)]
    two.skip(3)
    assert [two.next() for _ in range(3)] == drawn[3:]
    held = {pair for pairs in one.held_out.values() for pair in pairs}
    bare = [(q.removeprefix("Query: "), right, wrong) for batch in drawn for q, right, wrong in batch]
    assert not held & set(bare)
    assert all([q.startswith("Query: ") for q, _, _ in batch] == [False, True] * 4 for batch in drawn)
    other = Stream(Pairs(shares=data.shares, held_out=10, seed=1), 8)
    assert other.held_out != one.held_out


def test_a_batch_has_pairs_of_one_world():
    stream = Stream(Pairs(shares={"facts": 0.5, "library": 0.5}, held_out=2), 8)
    kinds = {tuple("guide" in right for _, right, _ in stream.next()) for _ in range(20)}
    assert kinds == {(True,) * 8, (False,) * 8}


def test_rate_rises_then_falls():
    training = Contrast(steps=10, learning_rate=1.0, warmup=0.2)
    rates = [rate(training, x / 10) for x in range(11)]
    assert rates[2] == 1.0 and rates[:3] == sorted(rates[:3]) and rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[0] > 0 and rates[10] < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"hiden": 3}}, r"unknown key 'model\.hiden'\. Did you mean"),
        ({"more": 1}, "unknown key 'more'"),
        ({"tokenizer": ""}, "missing key 'tokenizer'"),
        ({"data": {"shares": {"tracking": 1.0}}}, r"data\.shares: unknown value 'tracking'"),
        ({"data": {"shares": {}}}, r"data\.shares: name at least one world"),
        ({"training": {"batch": 1}}, r"training\.batch must be at least 2"),
        ({"training": {"temperature": 0}}, r"training\.temperature must be above 0"),
        ({"training": {"keep": [2]}}, r"training\.keep must be in \(0, 1\]"),
        ({"kind": "encodr"}, "kind: unknown value 'encodr'. Did you mean 'encoder'"),
        ({"version": "one"}, "version must be a whole number"),
    ],
)
def test_wrong_recipes_are_told(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as told:
        pretrain(path, tmp_path / "out")
    assert re.match(re.escape(str(path)), str(told.value))
    assert not (tmp_path / "out").exists()


def test_the_command_makes_what_the_recipe_says(tmp_path, monkeypatch, capsys):
    from metier.cli import main as cli

    recipe = written(tmp_path, training={"steps": 2})
    monkeypatch.setattr("sys.argv", ["metier", "pretrain", str(recipe), "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert re.search(r"min  step 2  pairs 32  tokens [\d,]+  train_loss [\d.]+  found_library", capsys.readouterr().err)
    assert load_base(tmp_path / "out").family == "encoder"


def test_kinds():
    assert {name: kind(RECIPES / f"{name}.yaml") for name in ("tiny", "early", "nano", "next", "encoder")} == {
        "tiny": "decoder", "early": "decoder", "nano": "decoder", "next": "decoder", "encoder": "encoder",
    }  # fmt: skip
    with pytest.raises(UserError, match="unknown key 'model.context'|unknown key 'training.steps'|missing key"):
        load_decoder(RECIPES / "encoder.yaml")


@pytest.mark.parametrize("name", ["facts", "library"])
def test_no_query_of_a_task_is_among_the_pairs(name):
    from metier.worlds import world

    made = world(name)
    tasks = ("facts",) if name == "facts" else ("library-search", "library-ambiguous")
    asked = {
        str(e.fields.get("query") or e.fields.get("question")) for t in tasks for s in ("dev", "test", "ood") for e in made.task(t).split(s)
    }
    pairs = list(itertools.islice(made.pairs(), 3000))
    assert not asked & {query for query, _, _ in pairs}
    assert all(right != wrong for _, right, wrong in pairs)


def test_pairs_of_facts_are_told_apart_by_the_name_alone():
    from metier.worlds import world

    for question, right, wrong in itertools.islice(world("facts").pairs(), 300):
        name = re.findall(r"(?<=\s)[A-Z]\w*", question)
        assert name and all(word in right for word in name)
        assert not all(word in wrong for word in name)
        assert right.count(".") == wrong.count(".") == 3
