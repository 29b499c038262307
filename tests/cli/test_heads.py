"""Changes that carry a task's head: what a checkpoint or an adapter can hold is written, the rest is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.cli.conftest import Run
from tests.merge.models import checkpoint, noise
from tests.tiny import tiny_encoder

from metier.delta import Checkpoint, Delta, LowRank, New
from metier.model import Specialist, WeightChange
from metier.model.encoder import HEAD

QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def specialist(run: Run) -> Path:
    """A specialist of the tiny encoder: factors of one map, and a head for two labels."""
    base, made = tiny_encoder(), torch.Generator().manual_seed(1)
    width = base.model.get_parameter(QUERY).shape[0]
    entries = {
        QUERY: LowRank(0.3 * torch.randn(width, 2, generator=made), torch.randn(2, width, generator=made)),
        HEAD[0]: New(torch.randn(2, width, generator=made)), HEAD[1]: New(torch.zeros(2)),
    }  # fmt: skip
    Specialist(base, (WeightChange(Delta(entries, base.fingerprint), ("no", "yes")),)).save(Path("expert"))
    return Path("expert")


@pytest.mark.parametrize("way", ["", *(pytest.param(way, marks=pytest.mark.slow) for way in ("diff", "compress"))])
def test_the_body_is_folded_and_the_head_is_said(run: Run, specialist: Path, way: str) -> None:
    base, place = tiny_encoder().path, str(specialist)
    if way:
        assert run("delta", "diff", base, place, "-o", "d").code == 0
        place = "d"
    if way == "compress":
        assert run("delta", "compress", "d", "-m", "svd", "--energy", 1.0, "-o", "small").code == 0
        place = "small"
    seen = run("delta", "fold", base, place, "-o", "out", "--json")
    assert seen.code == 0, seen.err
    facts = json.loads(seen.out)
    assert sorted(facts["left_out"]) == sorted(HEAD) and facts["verified"]["equal"]
    assert all(n in seen.err for n in HEAD) and f"{place} keeps the head" in seen.err
    assert sorted(json.loads(Path("out/metier.json").read_text())["recipe"]["left_out"]) == sorted(HEAD)
    out, start = Checkpoint("out"), Checkpoint(base)
    assert set(out) == set(start) and {n for n in start if not torch.equal(out[n], start[n])} == {QUERY}
    seen = run("delta", "unfold", "out", place, "--base", base, "-o", "back")
    assert seen.code == 0 and torch.allclose(Checkpoint("back")[QUERY], start[QUERY], atol=1e-5), seen.err


def test_the_body_becomes_an_adapter(run: Run, specialist: Path) -> None:
    from peft import PeftModel

    from metier.model import load_base

    base = tiny_encoder()
    seen = run("delta", "to-peft", specialist, "--base", base.path, "-o", "adapter", "--json")
    assert seen.code == 0 and json.loads(seen.out)["verified"]["equal"] and "keeps the head" in seen.err, seen.err
    assert run("delta", "fold", base.path, specialist, "-o", "out", "--no-verify").code == 0
    model = PeftModel.from_pretrained(load_base(base.path, device="cpu").model, "adapter").merge_and_unload()
    assert torch.allclose(model.get_parameter(QUERY), Checkpoint("out")[QUERY], atol=1e-6)


def test_a_head_alone_is_refused(run: Run) -> None:
    base = tiny_encoder()
    head = Delta({HEAD[0]: New(torch.ones(2, 32)), HEAD[1]: New(torch.zeros(2))}, base.fingerprint)
    Specialist(base, (WeightChange(head, ("no", "yes")),)).save(Path("expert"))
    seen = run("delta", "fold", base.path, "expert", "-o", "out")
    assert seen.code == 2 and "all it holds is a head (metier.head." in seen.err and not Path("out").exists()


def test_a_new_tensor_of_the_body_is_no_head(run: Run) -> None:
    """Left out, it would make another model of the result."""
    base = tiny_encoder()
    said = {
        "encoder.layer.0.extra.weight": "has 'encoder.layer.0.extra.weight', which the base lacks. Is it of another architecture",
        "embeddings.LayerNorm.gain": "does not have, and a part of its body",
    }
    for name, words in said.items():
        file = checkpoint(base, Path(name), noise(1)) / "model.safetensors"
        save_file(load_file(file) | {name: torch.ones(3)}, file)
        for verb in (["delta", "fold", base.path, name], ["merge", "linear", name, name, "--base", base.path]):
            seen = run(*verb, "-o", "out")
            assert seen.code == 2 and words in seen.err, seen.err
    assert not Path("out").exists()
