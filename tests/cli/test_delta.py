"""`metier delta` as a person would type it: what is written, what is said of it, and how mistakes end."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Run
from tests.merge.models import adapter, checkpoint, noise
from tests.tiny import tiny_causal, tiny_encoder, tiny_seq2seq

from metier.delta import Checkpoint, Delta, Dense, Sparse, load, save
from metier.delta.file import identity
from metier.delta.stored import Stored
from metier.model import Base


@pytest.fixture
def base() -> Base:
    return tiny_causal()


def same(a: Path | str, b: Path | str) -> bool:
    one, other = Checkpoint(a), Checkpoint(b)
    return set(one) == set(other) and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("make", [tiny_causal, tiny_encoder, pytest.param(tiny_seq2seq, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("dtype", "shards"), [(torch.float32, 1), (torch.bfloat16, 3)])
def test_diff_fold_and_unfold(run: Run, make: type, dtype: torch.dtype, shards: int) -> None:
    base = make()
    start = checkpoint(base, Path("start"), dtype=dtype, shards=shards)
    tuned = checkpoint(base, Path("tuned"), noise(1), dtype=dtype, shards=shards)
    seen = run("delta", "diff", start, tuned, "-o", "d", "--json")
    assert seen.code == 0, seen.err
    facts = json.loads(seen.out)
    assert facts["verified"]["gap"] == 0 and facts["verified"]["equal"]
    assert {len(load("d")[n].shape) for n in load("d")} == {2}, "tensors that do not change are left out"
    assert load("d").base == Checkpoint(start).fingerprint()
    seen = run("delta", "fold", start, "d", "-o", "again")
    assert seen.code == 0, seen.err
    assert "outputs differ by at most 0" in seen.out and same("again", tuned)
    assert sorted(p.name for p in Path("again").iterdir()) == sorted([p.name for p in Path(start).iterdir()] + ["metier.json"])
    assert json.loads(Path("again/metier.json").read_text())["verified"]["gap"] == 0
    back = json.loads(run("delta", "unfold", "again", "d", "-o", "back", "--json").out)
    assert back["is_the_base"] is same("back", start)
    assert dtype != torch.bfloat16 or back["is_the_base"]


def test_apply_and_to_hf_are_fold(run: Run, base: Base) -> None:
    tuned = checkpoint(base, Path("tuned"), noise(1))
    assert run("delta", "diff", base.path, tuned, "-o", "d", "--no-verify").code == 0
    for verb in ("apply", "to-hf"):
        seen = run("delta", verb, base.path, "d", "-o", verb, "--no-verify")
        assert seen.code == 0 and "verified   no" in seen.out and same(verb, tuned), seen.err


def test_dry_run_writes_nothing(run: Run, base: Base) -> None:
    adapter(base, Path("a"))
    plan = json.loads(run("delta", "fold", base.path, "a", "-o", "out", "--dry-run", "--json").out)
    assert plan["bytes_written"] == Checkpoint(base.path).bytes() and not Path("out").exists()
    assert "memory" in run("delta", "fold", base.path, "a", "-o", "out", "--dry-run").out


def test_show_reads_what_is_stored_once(run: Run, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of a saved delta is asked for once, and nothing of its base."""
    checkpoint(base, Path("a"), noise(1))
    assert run("delta", "diff", base.path, "a", "-o", "d", "--no-verify").code == 0
    asked, tensor = [], Stored.tensor
    monkeypatch.setattr(Stored, "tensor", lambda self, name: asked.append((self.path.name, name)) or tensor(self, name))  # type: ignore[func-returns-value]
    assert run("delta", "show", "d").code == 0
    assert sorted(asked) == sorted(("delta.safetensors", f"{n}|dense") for n in load("d"))


def test_show(run: Run, base: Base) -> None:
    adapter(base, Path("a"), save=("norm",))
    assert run("delta", "diff", base.path, "a", "-o", "d").code == 0
    facts = json.loads(run("delta", "show", "d", "--figure", "f.html", "--json").out)
    kinds = {r["name"].split(".")[-2]: (r["kind"], r["rank_of_energy"]) for r in facts["tensors"]}
    assert kinds["q_proj"][0] == "lowrank" and 1 <= kinds["q_proj"][1] <= 4 and kinds["norm"][0] == "dense"
    whole = {n: load("d")[n].dense() for n in load("d")}
    for row in facts["tensors"]:
        assert row["norm"] == pytest.approx(float(whole[row["name"]].norm()), rel=1e-5)
        if row["spectrum"]:
            assert row["spectrum"][:4] == pytest.approx(torch.linalg.svdvals(whole[row["name"]])[:4].tolist(), rel=1e-4)
    assert "plotly" in Path("f.html").read_text() and facts["provenance"]["base"] == str(Path(base.path).resolve())
    seen = run("delta", "show", "a", "--base", base.path)
    assert seen.code == 0 and "q_proj" in seen.out and "lowrank" in seen.out
    assert "which base does it change? Say --base" in run("delta", "show", "a").err


def test_to_lora_and_to_peft(run: Run, base: Base) -> None:
    from peft import PeftModel

    from metier.model import load_base

    inside = noise(1)
    checkpoint(base, Path("tuned"), lambda n, t: inside(n, t) if "layers" in n else t)
    assert run("delta", "diff", base.path, "tuned", "-o", "d").code == 0
    refused = run("delta", "to-peft", "d", "-o", "early")
    assert refused.code == 2 and "run metier delta to-lora first" in refused.err and not Path("early").exists()
    seen = run("delta", "to-lora", "d", "--energy", 0.9, "-o", "low", "--json")
    assert seen.code == 0 and json.loads(seen.out)["kept"] >= 0.9, seen.err
    seen = run("delta", "to-peft", "low", "-o", "adapter", "--json")
    assert seen.code == 0 and json.loads(seen.out)["verified"]["equal"], seen.err
    model = PeftModel.from_pretrained(load_base(base.path, device="cpu").model, "adapter").merge_and_unload()
    low = load("low").apply(Checkpoint(base.path))
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.allclose(model.state_dict()[name], low[name], atol=1e-6)
    assert run("delta", "to-lora", "d", "-o", "x").err.startswith("error: to-lora: give either")


def test_an_adapter_of_a_base_in_bfloat16_is_not_rounded(run: Run, base: Base) -> None:
    inside = noise(1)
    half = checkpoint(base, Path("half"), dtype=torch.bfloat16)
    checkpoint(base, Path("tuned"), lambda n, t: inside(n, t) if t.ndim == 2 else t + 0.1, dtype=torch.bfloat16)
    assert run("delta", "diff", half, "tuned", "-o", "d", "--no-verify").code == 0
    assert run("delta", "scale", "d", 0.3, "-o", "third", "--no-verify").code == 0
    assert run("delta", "to-lora", "third", "--rank", 3, "-o", "low", "--no-verify").code == 0
    seen = run("delta", "to-peft", "low", "-o", "adapter", "--json")
    assert seen.code == 0 and json.loads(seen.out)["verified"]["equal"], seen.err
    exact = Checkpoint(half)["model.norm.weight"].float() + load("low")["model.norm.weight"].dense()
    assert torch.equal(Stored(Path("adapter/adapter_model.safetensors")).tensor("base_model.model.model.norm.weight"), exact)
    assert not torch.equal(exact, exact.bfloat16().float())


def test_tied_embeddings_in_an_adapter(run: Run, base: Base) -> None:
    checkpoint(base, Path("tuned"), noise(1))
    assert run("delta", "diff", base.path, "tuned", "-o", "d").code == 0
    assert run("delta", "to-lora", "d", "--rank", 3, "-o", "low", "--no-verify").code == 0
    seen = run("delta", "to-peft", "low", "-o", "adapter", "--json")
    assert seen.code == 0 and json.loads(seen.out)["verified"]["equal"], seen.err


def test_an_adapter_goes_through_and_back(run: Run, base: Base) -> None:
    adapter(base, Path("a"), save=("norm",), rank=3)
    assert run("delta", "diff", base.path, "a", "-o", "d").code == 0
    seen = run("delta", "to-peft", "d", "-o", "b")
    assert seen.code == 0, seen.err
    assert json.loads(Path("b/adapter_config.json").read_text())["target_modules"] == ["q_proj", "v_proj"]
    for place in ("a", "b"):
        assert run("delta", "fold", base.path, place, "-o", f"{place}-whole").code == 0
    one, other = Checkpoint("a-whole"), Checkpoint("b-whole")
    assert all(torch.allclose(one[n], other[n], atol=1e-6) for n in one)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_encoder, tiny_seq2seq])
def test_adapters_of_other_families(run: Run, make: type) -> None:
    base = make()
    targets = ("query", "value") if base.family == "encoder" else ("q", "v")
    adapter(base, Path("a"), targets=targets)
    assert run("delta", "diff", base.path, "a", "-o", "d").code == 0
    seen = run("delta", "to-peft", "d", "-o", "b")
    assert seen.code == 0, seen.err


@pytest.mark.parametrize("method", ["compeft", *(pytest.param(m, marks=pytest.mark.slow) for m in ("bitdelta", "svd"))])
def test_compress(run: Run, base: Base, method: str) -> None:
    checkpoint(base, Path("tuned"), noise(1))
    assert run("delta", "diff", base.path, "tuned", "-o", "d").code == 0
    more = ("--rank", 4) if method == "svd" else ()
    seen = run("delta", "compress", "d", "--method", method, *more, "-o", "small", "--json")
    assert seen.code == 0, seen.err
    facts = json.loads(seen.out)
    assert facts["verified"]["equal"] and 0 < facts["kept"] < 1 and facts["bytes"] < facts["bytes_before"]
    assert json.loads(Path("small/metier.json").read_text())["kept"] == facts["kept"]
    seen = run("delta", "fold", base.path, "small", "-o", "whole")
    assert seen.code == 0, seen.err
    assert "times smaller" in run("delta", "compress", "d", "-m", method, "-o", "small", "--force").out


@pytest.mark.slow
def test_sum_scale_and_overlap(run: Run, base: Base) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        checkpoint(base, Path(f"t{name}"), noise(seed))
        assert run("delta", "diff", base.path, f"t{name}", "-o", name).code == 0
    assert run("delta", "sum", "a", "b", "--coef", "0.5,-1", "-o", "s").code == 0
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.allclose(load("s")[name].dense(), 0.5 * load("a")[name].dense() - load("b")[name].dense(), atol=1e-6)
    assert run("delta", "scale", "a", "-1", "-o", "n").code == 0
    assert torch.equal(load("n")[name].dense(), -load("a")[name].dense())
    found = json.loads(run("delta", "overlap", "a", "b", "n", "--json").out)
    flat = {k: torch.cat([load(k)[n].dense().reshape(-1) for n in sorted(load("a"))]) for k in ("a", "b")}
    assert found["cosine"][0][1] == pytest.approx(float(torch.cosine_similarity(flat["a"], flat["b"], 0)), abs=1e-4)
    assert found["cosine"][0][2] == pytest.approx(-1) and found["same_sign"][0][2] == 0
    share = float((flat["a"].sign() == flat["b"].sign()).float().mean())
    assert found["same_sign"][0][1] == pytest.approx(share, abs=1e-6)
    changed = {k: v != 0 for k, v in flat.items()}
    both, either = float((changed["a"] & changed["b"]).sum()), float((changed["a"] | changed["b"]).sum())
    assert found["jaccard"][0][1] == pytest.approx(both / either) and found["shared"][0][1] == pytest.approx(
        both / float(changed["a"].sum())
    )
    seen = run("delta", "overlap", "a", "b").out
    assert "cosine" in seen and "shared of the row's" in seen
    for name, coefs, inputs in (("s", [0.5, -1.0], ("a", "b")), ("n", [-1.0], ("a",))):
        told = load(name).provenance
        assert told["settings"]["coefs"] == coefs and [i["path"] for i in told["inputs"]] == [str(Path(i).absolute()) for i in inputs]


def test_show_tells_the_whole_story(run: Run, base: Base) -> None:
    """Method, settings, papers, versions and every input with its hash, through three commands; the base once."""
    checkpoint(base, Path("tuned"), noise(1))
    adapter(base, Path("lora"))
    assert run("delta", "diff", base.path, "tuned", "-o", "d", "--no-verify").code == 0
    words = ("--base", base.path, "--density", 0.3, "--coef", "1,0.5", "--delta", "-o", "m", "--no-verify")
    assert run("merge", "ties", "d", "lora", *words).code == 0
    assert run("delta", "compress", "m", "-o", "small", "--no-verify").code == 0
    seen = run("delta", "show", "small", "--figure", "new/dir/f.html")
    assert seen.code == 0 and Path("new/dir/f.html").is_file(), seen.err
    assert seen.out.count("\nbase ") == 0 and seen.out.startswith(f"base       {Checkpoint(base.path).fingerprint()[:16]} ")
    adapted = hashlib.sha256()
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        content = Path("lora", file).read_bytes()
        adapted.update(len(content).to_bytes(8, "little") + content)
    told = (
        "compress compeft", "115 ComPEFT", "merge ties", "coef 1.0 0.5, density 0.3", "versions   metier", "torch 2", "made by    diff",
        f"{Path('lora').absolute()} (adapter), sha256:{adapted.hexdigest()[:16]}", f"{Path('d').absolute()} (delta), sha256:{identity('d')[:16]}",
        f"{Path('tuned').absolute()} (checkpoint), sha256:",
    )  # fmt: skip
    for text in told:
        assert text in seen.out, text
    seen = run("delta", "show", "lora", "--base", base.path)
    assert f"base       fingerprint unknown {Path(base.path).resolve()}" in seen.out and adapted.hexdigest()[:16] in seen.out


def test_grafts_in_sequence(run: Run, base: Base) -> None:
    """The first keeps its entries; a change that is not sparse is refused before anything is written."""
    name = "model.layers.0.mlp.up_proj.weight"
    shape = torch.Size((64, 32))
    for place, at, value in (("one", [0, 5], 1.0), ("two", [5, 9], 2.0)):
        entry = Sparse(torch.tensor(at), torch.full((2,), value), shape)
        save(Delta({name: entry}, Checkpoint(base.path).fingerprint(), {"base": base.path}), place)
    seen = run("delta", "in-sequence", "one", "two", "-o", "both")
    assert seen.code == 0, seen.err
    assert load("both")[name].dense().flatten()[[0, 5, 9]].tolist() == [1.0, 1.0, 2.0]
    assert [i["path"] for i in load("both").provenance["inputs"]] == [str(Path(p).absolute()) for p in ("one", "two")]
    save(Delta({name: Dense(torch.ones(shape))}, Checkpoint(base.path).fingerprint(), {"base": base.path}), "dense")
    seen = run("delta", "in-sequence", "one", "dense", "-o", "none")
    assert seen.code == 2 and "not Sparse. Give grafts" in seen.err and not Path("none").exists()


def test_what_changes_nothing_is_an_error(run: Run, base: Base) -> None:
    equal = checkpoint(base, Path("equal"))
    seen = run("delta", "diff", base.path, equal, "-o", "d")
    assert seen.code == 2 and "zero everywhere" in seen.err and not Path("d").exists()
    checkpoint(base, Path("tuned"), lambda n, t: t + 0.1 if n.endswith("norm.weight") else t)
    assert run("delta", "diff", base.path, "tuned", "-o", "d").code == 0
    seen = run("delta", "scale", "d", "1e-12", "-o", "tiny", "--no-verify")
    assert seen.code == 0
    seen = run("delta", "fold", base.path, "tiny", "-o", "out")
    assert seen.code == 2 and "no change reaches it" in seen.err and not Path("out").exists()
    assert "zero everywhere" in run("delta", "scale", "d", "0", "-o", "none").err


def test_mismatches_are_told_before_anything_is_written(run: Run, base: Base) -> None:
    wide = tiny_causal(hidden=48)
    seen = run("delta", "diff", base.path, wide.path, "-o", "d")
    assert seen.code == 2 and "embed_tokens.weight" in seen.err and not Path("d").exists()
    other = tiny_causal(seed=1)
    checkpoint(base, Path("tuned"), noise(1))
    assert run("delta", "diff", base.path, "tuned", "-o", "d").code == 0
    seen = run("delta", "fold", other.path, "d", "-o", "out")
    assert seen.code == 2 and "made from base" in seen.err and not Path("out").exists()
    assert "holds something that metier did not write" in run("delta", "fold", base.path, "d", "-o", "tuned", "--force").err
    assert "is there already" in run("delta", "diff", base.path, "tuned", "-o", "d").err
    assert "is read for this result" in run("delta", "fold", base.path, "d", "-o", "d", "--force").err
    assert "no such folder" in run("delta", "fold", base.path, "nowhere", "-o", "out").err


def test_an_output_layer_that_is_no_longer_tied_is_not_lost(run: Run, base: Base) -> None:
    from safetensors.torch import load_file, save_file

    place = checkpoint(base, Path("tuned"), noise(1)) / "model.safetensors"
    tensors = load_file(place)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, place)
    assert run("delta", "diff", base.path, "tuned", "-o", "d").code == 0, "the same once more is no change"
    save_file(tensors | {"lm_head.weight": 2 * tensors["lm_head.weight"]}, place)
    seen = run("delta", "diff", base.path, "tuned", "-o", "lost")
    assert seen.code == 2 and "'lm_head.weight' of tuned/model.safetensors is a tensor of its own" in seen.err and not Path("lost").exists()


def test_values_that_are_not_numbers_are_refused(run: Run, base: Base) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    for kind in (torch.float32, torch.bfloat16):
        start = checkpoint(base, Path(f"base-{kind}"), dtype=kind)
        checkpoint(base, Path(f"bad-{kind}"), lambda n, t: t.where(t != t.max(), torch.nan) if n == name else t + 0.1, dtype=kind)
        checkpoint(base, Path(f"good-{kind}"), noise(1), dtype=kind)
        bad, good = f"bad-{kind}", f"good-{kind}"
        merges = [("merge", m, good, bad, "-b", start) for m in ("ties", "linear", "slerp")]
        for words in (("delta", "diff", start, bad), ("delta", "fold", start, bad), *merges, (*merges[0], "--delta")):
            seen = run(*words, "-o", "out", "--no-verify")
            assert seen.code == 2 and f"{bad}/model.safetensors: '{name}' holds values that are infinite or not numbers" in seen.err, (
                seen.err
            )
            assert not Path("out").exists()
    seen = run("delta", "diff", "bad-torch.float32", "good-torch.float32", "-o", "out", "--no-verify")
    assert seen.code == 2 and f"'{name}' holds values that are infinite or not numbers" in seen.err and not Path("out").exists()


def test_an_adapter_that_does_not_hold_numbers(run: Run, base: Base) -> None:
    from safetensors.torch import load_file, save_file

    file = adapter(base, Path("a")) / "adapter_model.safetensors"
    tensors = load_file(file)
    first = next(n for n in tensors if n.endswith("lora_B.weight"))
    save_file(tensors | {first: tensors[first] / 0}, file)
    for words in (("delta", "diff", base.path, "a"), ("delta", "fold", base.path, "a")):
        seen = run(*words, "-o", "out", "--no-verify")
        assert seen.code == 2 and "a: 'model.layers.0" in seen.err and not Path("out").exists(), seen.err


def test_gibberish_is_warned_of(run: Run) -> None:
    from metier.model import load_base

    base = load_base("metier-nano", device="cpu")
    checkpoint(base, Path("tuned"), noise(1, 0.5))
    seen = run("delta", "diff", "metier-nano", "tuned", "-o", "d")
    assert seen.code == 0 and "may write gibberish" in seen.err, seen.err
