"""`metier merge` as a person would type it, and every command of docs/merging.md in its order."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.conftest import Run
from tests.conftest import REPOSITORY
from tests.merge.models import adapter, checkpoint, noise
from tests.tiny import tiny_causal, tiny_encoder

from metier.delta import Checkpoint, diff, load
from metier.merge._method import change_of
from metier.merge.ties import ties
from metier.model import Base

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def base() -> Base:
    return tiny_causal()


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_an_output_layer_saved_whole_beside_tied_embeddings(run: Run, base: Base) -> None:
    adapter(base, Path("other"))
    tuned = adapter(base, Path("tuned"), seed=1, save=("lm_head",))
    seen = run("merge", "linear", tuned, "other", "--base", base.path)
    assert seen.code == 2 and "changes 'lm_head.weight' by itself" in seen.err
    file = tuned / "adapter_model.safetensors"
    tensors = load_file(file)
    output = next(n for n in tensors if n.endswith("lm_head.weight"))
    save_file(tensors | {output: Checkpoint(base.path)["model.embed_tokens.weight"].clone()}, file)  # as peft saves it untuned
    assert run("merge", "linear", tuned, "other", "--base", base.path).code == 0


@pytest.mark.slow
def test_ties_of_everything(run: Run, base: Base) -> None:
    start = checkpoint(base, Path("base"), dtype=torch.bfloat16, shards=2)
    checkpoint(base, Path("tuned"), noise(1), dtype=torch.bfloat16)
    adapter(base, Path("lora"))
    words = ("merge", "ties", "tuned", "lora", "--base", start, "--density", 0.5, "--coef", "1,0.5", "--scale=0.7")
    plan = json.loads(run(*words, "-o", "out", "--dry-run", "--json").out)
    assert plan["bytes_written"] == Checkpoint(start).bytes() and len(plan["shards"]) == 2 and not Path("out").exists()
    seen = run(*words, "-o", "out", "--json")
    assert seen.code == 0, seen.err
    assert json.loads(seen.out)["verified"]["gap"] == 0
    assert run(*words, "--delta", "-o", "d").code == 0
    from metier.merge._experts import opened

    weights = Checkpoint(start)
    exact = change_of(ties(density=0.5, scale=0.7), [opened(p, weights) for p in ("tuned", "lora")], weights, coefs=(1, 0.5)).read()
    assert all(torch.equal(Checkpoint("out")[n], exact.apply(weights)[n]) for n in weights)
    assert all(torch.equal(load("d")[n].dense(), exact[n].dense()) for n in load("d"))
    card = json.loads(Path("out/metier.json").read_text())
    assert card["recipe"]["merge"] == "ties" and card["recipe"]["settings"]["density"] == 0.5 and card["verified"]["equal"]


@pytest.mark.parametrize("lines", [(), ("--lines", 0.2)])
def test_a_merge_of_weights(run: Run, base: Base, lines: tuple[object, ...]) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        checkpoint(base, Path(name), noise(seed), dtype=torch.bfloat16)
    start = checkpoint(base, Path("base"), dtype=torch.bfloat16)
    seen = run("merge", "slerp", "a", "b", "-b", start, "--t", 0.0, *lines, "-o", "out")
    assert seen.code == 0, seen.err
    out, a, first = Checkpoint("out"), Checkpoint("a"), "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(out[UP], a[UP]) and torch.equal(out[first], a[first]) is not bool(lines)
    seen = run("merge", "slerp", start, "b", "-b", start, "--t", 0.5, "-o", "half", "--no-verify")
    assert seen.code == 0, "the base itself may be an expert" + seen.err


def test_encoders_keep_heads_out(run: Run) -> None:
    base = tiny_encoder()
    for name, seed in (("a", 1), ("b", 2)):
        checkpoint(base, Path(name), noise(seed))
    assert run("delta", "diff", base.path, "a", "-o", "d").code == 0
    seen = run("merge", "task-arithmetic", "d", "b", "-b", base.path, "--scale", 0.5, "-o", "out")
    assert seen.code == 0, seen.err
    name = "encoder.layer.0.attention.self.query.weight"
    weights = {k: Checkpoint(k)[name] for k in ("a", "b")} | {"base": Checkpoint(base.path)[name]}
    assert torch.allclose(Checkpoint("out")[name], 0.5 * (weights["a"] + weights["b"]), atol=1e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("tise", "a"), "is no merge. Did you mean 'ties'?"), (("lora", "a"), "is no merge"), (("fisher", "a"), "needs a task to learn from"),
        (("ties", "a", "--densty", "0.5"), "unknown flag --densty. Did you mean 'density'?"), (("ties", "a", "--density"), "needs a value"),
        (("ties", "a", "--density", "20"), "It is a fraction: write 0.2"), (("ties", "a", "--coef", "1,2"), "2 coefficients for 1 experts"),
        (("slerp", "a"), "exactly 2 experts"), (("ties", "nowhere"), "no such folder"), (("from-mergekit", "a", "b"), "give one recipe file"),
        (("from-mergekit", "none.yml"), "which says all else; got --base"), (("ties", "a", "--ray", "nobody"), "write HOST:PORT"),
        (("ties", "a", "--ray", "127.0.0.1:1"), "nobody answers there"), (("ties", "a", "--device", "gpu"), "torch has no such device here"),
        (("ties", "a", "--ray", "local", "--delta"), "--ray local: a change (--delta) is written by this process"),
    ],
)  # fmt: skip
def test_mistakes(run: Run, base: Base, words: tuple[str, ...], says: str) -> None:
    checkpoint(base, Path("a"), noise(1))
    seen = run("merge", *words, "-b", base.path, "-o", "out")
    assert seen.code == 2 and says in seen.err and not Path("out").exists(), seen.err
    assert "Say --base" in run("merge", "ties", "a").err


def test_models_that_change_nothing(run: Run, base: Base) -> None:
    checkpoint(base, Path("a"), noise(1))
    checkpoint(base, Path("same"))
    seen = run("merge", "linear", "a", "same", "-b", base.path, "-o", "out")
    assert seen.code == 2 and "same: changes nothing of the base" in seen.err and not Path("out").exists()
    seen = run("merge", "task-arithmetic", "a", "-b", base.path, "--scale", "0", "-o", "out")
    assert seen.code == 2 and "no change reaches it" in seen.err and not Path("out").exists()


@pytest.mark.slow
def test_gibberish_is_warned_of_by_merge_and_by_tune_alike(run: Run, base: Base) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        checkpoint(base, Path(name), noise(seed))
    merged = run("merge", "task-arithmetic", "a", "b", "-b", base.path, "--scale", 60, "-o", "out")
    tuned = run("tune", "task-arithmetic", "tickets.csv", "-b", base.path, "--experts", "a,b", "--scale", 60, "-o", "tuned")
    said = next(line for line in merged.err.splitlines() if "gibberish" in line)
    assert said.endswith("it may write gibberish. Lower scale or coef.") and said in tuned.err.splitlines()
    assert "verified   loaded again: outputs differ by at most 0" in tuned.out and "perplexity" in tuned.out
    one, two = (json.loads(Path(p, "metier.json").read_text()) for p in ("out", "tuned"))
    assert two["verified"]["perplexity"] == pytest.approx(one["verified"]["perplexity"], rel=1e-3)
    assert two["verified"]["warnings"] == one["verified"]["warnings"] and two["verified"]["gap"] == two["reload_gap"] == 0.0
    forced = run("tune", "few-shot", "tickets.csv", "-b", base.path, "-o", "tuned", "--force", "--json")
    assert json.loads(forced.out)["verified"] is None and "gibberish" not in forced.err, "no weights change"


def test_outputs_that_are_no_numbers_are_said_and_stored(run: Run, base: Base) -> None:
    checkpoint(base, Path("a"), noise(1))
    seen = run("merge", "task-arithmetic", "a", "-b", base.path, "--scale", "1e20", "-o", "out", "--json")
    assert seen.code == 1 and "values that are not numbers" in seen.err and "Do not use it" in seen.err, seen.err
    verified = json.loads(Path("out/metier.json").read_text())["verified"]
    assert verified["perplexity"] is None and not verified["equal"]


@pytest.mark.slow
def test_every_command_of_the_page(run: Run, base: Base) -> None:
    page = (REPOSITORY / "docs" / "merging.md").read_text(encoding="utf-8")
    shutil.copytree(base.path, "base")
    checkpoint(base, Path("tuned"), noise(1))
    checkpoint(base, Path("base-next"), noise(2))
    rows = [{"prompt": f"reset server {i}", "completion": "no"} for i in range(40)]
    Path("refusals.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for i, name in enumerate("abc"):
        adapter(base, Path(f"lora-{name}"), seed=i)
    for name, text in re.findall(r'```yaml title="([^"]+)"\n(.*?)```', page, re.DOTALL):
        Path(name).write_text(text)
    commands = [line for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL) for line in block.replace("\\\n", "").splitlines()]
    assert len(commands) >= 15
    for command in commands:
        seen = run(*shlex.split(command)[1:])
        assert seen.code == 0, f"{command}\n{seen.out}{seen.err}"
        assert "is the base" not in seen.out or "bit for bit" in seen.out
    assert Path("tuned.html").exists() and json.loads(Path("final/metier.json").read_text())["verified"]["equal"]
    assert Checkpoint("from-recipe").dtype(UP) == torch.bfloat16
    assert diff(Checkpoint("base"), Checkpoint("final"))[UP].dense().any()
