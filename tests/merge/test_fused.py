"""Models of experts: parameters of three axes, and files that name weights otherwise than the model does."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from tests.merge.models import Change, checkpoint, fused
from torch import Tensor
from transformers import AutoModelForCausalLM

from metier.delta import Checkpoint, LowRank, diff
from metier.merge import _work
from metier.merge._convert import to_lora
from metier.merge._experts import opened
from metier.merge._method import change_of
from metier.merge.ties import ties
from metier.model import load_base

KINDS = ("mixtral", "gpt-oss")


def adapter(base: Path, place: Path) -> dict[str, Tensor]:
    """A LoRA adapter of the experts, written to `place`; the weights that peft folds it to."""
    config = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"], init_lora_weights=False
    )
    torch.manual_seed(3)
    model = peft.get_peft_model(load_base(base, device="cpu").model, config)
    model.save_pretrained(str(place))
    return {n: p.detach().clone() for n, p in model.merge_and_unload().named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_experts_is_what_peft_folds(kind: str, tmp_path: Path) -> None:
    place = fused(tmp_path / "base", kind)
    theirs, base = adapter(place, tmp_path / "adapter"), Checkpoint(place)
    delta = opened(tmp_path / "adapter", base)
    assert all(n in base for n in delta) and any("experts" in n for n in delta)
    done = _work.fold(base, delta, tmp_path / "out", _work.How(), recipe={})
    assert done.verdict is not None and done.verdict.equal
    found = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).named_parameters())
    assert set(found) == set(theirs)
    for name in theirs:
        torch.testing.assert_close(found[name], theirs[name], atol=1e-6, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_in_memory_the_model_s_names_hold(kind: str, tmp_path: Path) -> None:
    place = fused(tmp_path / "base", kind)
    theirs, base = adapter(place, tmp_path / "adapter"), load_base(place, device="cpu")
    before = dict(base.model.named_parameters())
    delta = opened(tmp_path / "adapter", base)
    assert set(delta) == {n for n in theirs if not torch.equal(theirs[n], before[n])}
    for name in delta:
        torch.testing.assert_close(delta.new_value(name, before[name].data), theirs[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [1, 3])
def test_diff_and_fold_of_experts(kind: str, shards: int, tmp_path: Path) -> None:
    base = load_base(fused(tmp_path / "base", kind), device="cpu")
    start = checkpoint(base, tmp_path / "start", dtype=torch.bfloat16, shards=shards)
    tuned = Checkpoint(checkpoint(base, tmp_path / "tuned", lambda _, t: t + 0.01, dtype=torch.bfloat16, shards=shards))
    delta = diff(Checkpoint(start), tuned)
    done = _work.fold(Checkpoint(start), delta, tmp_path / "out", _work.How(), recipe={})
    assert done.verdict is not None and done.verdict.gap == 0
    assert all(torch.equal(Checkpoint(tmp_path / "out")[n], tuned[n]) for n in tuned)


def test_merges_see_a_parameter_of_three_axes_as_its_entries(tmp_path: Path) -> None:
    """TIES of the joined experts is TIES of the same entries in a row, and is written, loaded and verified like any other."""
    base = load_base(fused(tmp_path / "base", "gpt-oss"), device="cpu")
    start = Checkpoint(base.path)
    tuned = [Checkpoint(checkpoint(base, tmp_path / str(i), moved(i))) for i in (1, 2)]
    deltas = [diff(start, t) for t in tuned]
    merge = ties(density=0.3, scale=0.7)
    changed = change_of(merge, deltas, start)
    done = _work.merge_to(merge, start, deltas, changed, tmp_path / "out", _work.How(), coefs=(), recipe={})
    assert done.verdict is not None and done.verdict.gap == 0
    flat = [{n: c[n].reshape(-1) for n in start} for c in (start, *tuned)]
    exact = change_of(merge, [diff(flat[0], t) for t in flat[1:]], flat[0]).apply(flat[0])
    out, name = Checkpoint(tmp_path / "out"), "model.layers.0.mlp.experts.gate_up_proj"
    assert out.shape(name) == (4, 16, 32) and not torch.equal(out[name], start[name])
    for n in start:
        torch.testing.assert_close(out[n].reshape(-1), exact[n], atol=1e-6, rtol=1e-5)


def test_factors_leave_a_parameter_of_three_axes_whole(tmp_path: Path) -> None:
    base = load_base(fused(tmp_path / "base", "gpt-oss"), device="cpu")
    start = Checkpoint(base.path)
    delta = diff(start, Checkpoint(checkpoint(base, tmp_path / "tuned", moved(1))))
    done = _work.keep(to_lora(delta, 2), tmp_path / "small", start, _work.How())
    assert done.verdict is not None and done.verdict.equal
    small, name = opened(tmp_path / "small", start), "model.layers.1.mlp.experts.down_proj"
    assert torch.equal(small[name].dense(), delta[name].dense())
    assert isinstance(small["model.layers.1.self_attn.q_proj.weight"], LowRank)


def moved(seed: int) -> Change:
    """Every tensor changes a little."""
    return lambda name, t: t + 0.02 * torch.randn(t.shape, generator=torch.Generator().manual_seed(seed + sum(map(ord, name))))
