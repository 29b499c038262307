"""What `metier delta` and `metier merge` say where something is off: the cause that is known, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.conftest import Run
from tests.merge.models import adapter, checkpoint, fused, noise
from tests.tiny import tiny_causal

from metier.delta import Checkpoint
from metier.model import Base, load_base


@pytest.fixture
def base() -> Base:
    return tiny_causal()


@pytest.fixture
def d(run: Run, base: Base) -> str:
    """A saved delta of the base."""
    checkpoint(base, Path("tuned"), noise(1))
    assert run("delta", "diff", base.path, "tuned", "-o", "d", "--no-verify").code == 0
    return "d"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rank", 3), "--rank is an option of svd, not of compeft: leave it out, or say --method svd"),
        (("--energy", 0.5), "--energy is an option of svd, not of compeft"),
        (("-m", "svd", "--density", 0.05), "--density is an option of compeft, not of svd"),
        (("-m", "bitdelta", "--alpha", 1), "--alpha is an option of compeft, not of bitdelta"),
        (("-m", "svd", "--everything"), "--everything is an option of bitdelta, not of svd"),
        (("-m", "svd", "--rank", 3, "--energy", 0.5), "give either --rank 16 or --energy 0.9"),
    ],
)
def test_an_option_of_another_method_is_not_ignored(run: Run, d: str, words: tuple[object, ...], says: str) -> None:
    seen = run("delta", "compress", d, *words, "-o", "out")
    assert seen.code == 2 and says in seen.err and not Path("out").exists(), seen.err


def test_unfolding_what_was_not_folded(run: Run, base: Base, d: str) -> None:
    seen = run("delta", "unfold", base.path, d, "-o", "out")
    assert seen.code == 2 and f"{base.path} is the base of d itself: nothing was folded into it" in seen.err and not Path("out").exists()
    other = checkpoint(base, Path("other"), noise(2))
    seen = run("delta", "unfold", other, d, "-o", "out")
    assert seen.code == 0 and "folding had rounded, or other is not base + d" in seen.out, seen.err
    assert "the checkpoint's" in seen.out and "the base's" not in seen.out


def test_show_of_two_equal_models(run: Run, base: Base, d: str) -> None:
    says = "every entry is zero"
    assert says in run("delta", "show", base.path, "--base", base.path).out
    assert says not in run("delta", "show", d).out


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scale_that_is_too_large_is_not_the_experts_fault(run: Run, base: Base, dtype: torch.dtype) -> None:
    start = checkpoint(base, Path("start"), dtype=dtype)
    checkpoint(base, Path("tuned"), noise(1), dtype=dtype)
    seen = run("merge", "task-arithmetic", "tuned", "-b", start, "--scale", "1e40", "-o", "out")
    assert seen.code == 2 and "lower the scale or the coefficients" in seen.err and "damaged" not in seen.err and not Path("out").exists()
    dead = run("merge", "task-arithmetic", "tuned", "-b", start, "--scale", "1e37", "-o", "dead")
    assert dead.code == 0 and "every output is the same number" in dead.err, dead.out + dead.err
    checkpoint(base, Path("inner"), lambda n, t: noise(1)(n, t) if "mlp" in n else t, dtype=dtype)
    seen = run("merge", "task-arithmetic", "inner", "-b", start, "--scale", "1e37", "-o", "out")
    assert seen.code == 1 and "computes values that are not numbers: the change is too large" in seen.err, seen.err
    assert not json.loads(Path("out/metier.json").read_text())["verified"]["equal"]

    def broken(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.full_like(tensor, float("nan")) if name.endswith("up_proj.weight") else tensor

    checkpoint(base, Path("nan"), broken, dtype=dtype)
    seen = run("merge", "task-arithmetic", "tuned", "nan", "-b", start, "-o", "other")
    assert seen.code == 2 and not Path("other").exists()
    assert re.search(r"nan/model.safetensors: 'model.layers.\d.mlp.up_proj.weight' holds values that are infinite", seen.err), seen.err


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("mixtral", ("experts.0.w1.weight' (and 25 more) is in the base's files, but transformers joins or renames it",)),
        (
            "gpt-oss",
            (
                "down_proj' (and 3 more) has 3 axes, as fused experts have",
                "is a matrix of a GptOssTopKRouter",
                "sinks' (and 1 more) belongs to",
            ),
        ),
    ],
)
def test_what_an_adapter_of_experts_cannot_hold(run: Run, kind: str, says: tuple[str, ...]) -> None:
    base = load_base(fused(Path("base"), kind), device="cpu")
    checkpoint(base, Path("tuned"), lambda n, t: t + 0.01)
    assert run("delta", "diff", "base", "tuned", "-o", "d", "--no-verify").code == 0
    assert run("delta", "to-lora", "d", "--rank", 2, "-o", "low", "--no-verify").code == 0
    seen = run("delta", "to-peft", "low", "-o", "out")
    assert seen.code == 2 and all(s in seen.err for s in (*says, "can be folded: metier delta fold")), seen.err
    assert "another model" not in seen.err and "to-lora first" not in seen.err and not Path("out").exists()
    assert run("delta", "fold", "base", "low", "-o", "whole", "--no-verify").code == 0 and len(Checkpoint("whole")) == len(
        Checkpoint("base")
    )


def test_quantised_weights_are_refused(run: Run, base: Base) -> None:
    """Codes of a quantisation do not add up: neither float8 nor the integers of a checkpoint that says it is quantised."""
    for place, kind in (("eight", torch.float8_e4m3fn), ("int", torch.int8)):
        file = checkpoint(base, Path(place), noise(1)) / "model.safetensors"
        tensors = load_file(file)
        name = next(n for n in tensors if n.endswith("q_proj.weight"))
        save_file(tensors | {name: tensors[name].to(kind)}, file)
        config = json.loads((Path(place) / "config.json").read_text())
        (Path(place) / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "x"}}))
        for verb in (["delta", "diff", base.path, place], ["delta", "fold", place, "d"], ["merge", "linear", place, "--base", base.path]):
            seen = run(*verb, "-o", "out")
            assert seen.code == 2 and f"'{name}' is quantised" in seen.err and "bfloat16" in seen.err, seen.err
    assert not Path("out").exists()


def test_a_change_that_is_not_there(run: Run, base: Base) -> None:
    for verb in (["show"], ["scale"], ["compress"], ["to-lora", "--rank", 2]):
        seen = run("delta", *verb[:1], "nowhere", *(["0.5"] if verb == ["scale"] else []), *verb[1:])
        assert seen.code == 2 and "nowhere: no such folder" in seen.err, seen.err
    seen = run("merge", "linear", "nowhere", "--base", base.path, "--dry-run")
    assert seen.code == 2 and "nowhere: no such folder" in seen.err


def test_a_home_is_found(run: Run, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell leaves ~ alone in --out=~/x."""
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    checkpoint(base, Path("tuned"), noise(1))
    assert run("delta", "diff", base.path, "tuned", "--out=~/d", "--no-verify").code == 0
    assert Path("home/d/delta.json").is_file() and not Path("~").exists()
    seen = run("merge", "linear", "~/d", "--base", base.path, "--out=~/m", "--json", "--no-verify")
    assert seen.code == 0 and json.loads(seen.out)["out"] == str(Path("home/m").absolute()) and len(Checkpoint("home/m"))


def test_values_that_are_no_numbers_are_named_where_spectra_are_computed(run: Run, base: Base) -> None:
    for place in ("good", "nan"):
        checkpoint(base, Path(place), noise(1))
    tensors = load_file("nan/model.safetensors")
    name = next(n for n in tensors if n.endswith("q_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, "nan/model.safetensors")
    on = ["--base", base.path]
    for verb in (
        ["delta", "show", "nan", *on], ["delta", "to-lora", "nan", *on, "--rank", 2, "-o", "out"], ["delta", "overlap", "good", "nan", *on],
        ["delta", "compress", "nan", *on, "-m", "svd", "-o", "out"], ["merge", "tsv", "good", "nan", *on, "-o", "out"],
        ["merge", "iso-c", "good", "nan", *on, "-o", "out"],
    ):  # fmt: skip
        seen = run(*verb)
        assert seen.code == 2 and "nan/model.safetensors" in seen.err and f"'{name}' holds values that are infinite" in seen.err, (
            verb,
            seen.err,
        )
    assert not Path("out").exists()


def test_an_adapter_whose_configuration_does_not_fit(run: Run, base: Base) -> None:
    config = json.loads((adapter(base, Path("a")) / "adapter_config.json").read_text())
    for change, words in (({"lora_alpha": None}, "lora_alpha must be a number; got None"), ({"r": 8}, r"has rank 4, .*says 8")):
        Path("a/adapter_config.json").write_text(json.dumps(config | change))
        seen = run("delta", "fold", base.path, "a", "-o", "out")
        assert seen.code == 2 and re.search(words, seen.err) and not Path("out").exists(), seen.err


def test_a_recipe_and_its_adapter_are_not_replaced(run: Run, base: Base) -> None:
    """Both are read for the result, also where they lie in what metier wrote."""
    Path("mine").mkdir()
    place = adapter(base, Path("mine/lora"))
    (place / "metier.json").write_text("{}")
    (Path("mine") / "metier.json").write_text("{}")
    recipe = f"merge_method: linear\nbase_model: {base.path}\nmodels: [{{model: {base.path}+mine/lora}}]\n"
    Path("mine/recipe.yml").write_text(recipe)
    Path("recipe.yml").write_text(recipe)
    for file, out in (("recipe.yml", "mine/lora"), ("mine/recipe.yml", "mine")):
        seen = run("merge", "from-mergekit", file, "-o", out, "--force", "--no-verify")
        assert seen.code == 2 and "read for this result" in seen.err and (place / "adapter_config.json").is_file(), seen.err
