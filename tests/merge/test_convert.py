"""Low-rank conversion, export for peft, and what verification says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.merge.models import checkpoint, noise
from tests.tiny import tiny_causal, tiny_encoder
from torch import Tensor

from metier.delta import Checkpoint, Delta, Dense, LowRank, New, diff
from metier.errors import Failed, KeyMismatch, UserError
from metier.merge import _verdict, _verify, _work
from metier.merge._convert import to_lora, to_peft
from metier.merge._overlap import overlap
from metier.merge._show import shown

Q = "model.layers.0.self_attn.q_proj.weight"


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 7), st.integers(0, 5))
def test_to_lora_is_the_nearest_of_its_rank(rows: int, columns: int, rank: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    found = to_lora(Delta({"w": Dense(matrix)}), rank)["w"]
    assert isinstance(found, LowRank) and found.up.shape[1] <= min(rank, rows, columns)
    rest = torch.linalg.svdvals(matrix.double())[rank:].square().sum().sqrt()
    assert float((matrix - found.dense()).norm()) == pytest.approx(float(rest), abs=1e-4)


def test_to_lora_keeps_what_it_is_told_to() -> None:
    matrix = torch.randn(8, 5)
    delta = Delta({"w": Dense(matrix), "bias": Dense(torch.ones(5)), "head": New(torch.ones(2, 2)), "zero": Dense(torch.zeros(3, 3))})
    found = to_lora(delta, energy=0.9)
    kept = found["w"].dense().square().sum() / matrix.square().sum()
    less = to_lora(delta, found["w"].up.shape[1] - 1)["w"].dense().square().sum() / matrix.square().sum()  # type: ignore[union-attr]
    assert float(kept) >= 0.9 > float(less)
    assert set(found.entries) == {"w", "bias", "head"} and found["bias"] is delta["bias"]
    small = LowRank(torch.randn(8, 2), torch.randn(2, 5), 0.5)
    assert to_lora(Delta({"w": small}), 4)["w"] is small
    with pytest.raises(UserError, match="no matrix"):
        to_lora(Delta({"zero": Dense(torch.zeros(3, 3))}), 2)


def test_what_has_no_place_in_an_adapter_is_named() -> None:
    base = tiny_causal()
    weights = Checkpoint(base.path)
    low = LowRank(torch.randn(32, 2), torch.randn(2, 32))
    with pytest.raises(UserError, match=r"'metier.head' is a tensor the base does not have.*mlp.up_proj.weight' is dense"):
        to_peft(
            Delta({Q: low, "metier.head": New(torch.ones(2)), "model.layers.0.mlp.up_proj.weight": Dense(torch.ones(64, 32))}),
            base,
            weights,
        )
    with pytest.raises(KeyMismatch, match="no tensor 'model.layers.7.w'"):
        to_peft(Delta({"model.layers.7.w": low}), base, weights)
    with pytest.raises(UserError, match="no low-rank matrix"):
        to_peft(Delta({"model.norm.weight": Dense(torch.ones(32))}), base, weights)
    adapter = to_peft(
        Delta({Q: low.scaled(0.5), "model.layers.1.self_attn.q_proj.weight": LowRank(torch.randn(32, 1), torch.randn(1, 32))}),
        base,
        weights,
    )
    assert adapter.config["r"] == 2 and adapter.config["rank_pattern"] == {"model.layers.1.self_attn.q_proj": 1}
    assert adapter.config["target_modules"] == ["q_proj"]


def test_gpt2_stores_its_maps_transposed(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from metier.merge._experts import opened
    from metier.merge._export import export

    tokenizer = tiny_causal().tokenizer
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base = Checkpoint(tmp_path / "base")
    name = next(n for n in base if n.endswith("c_attn.weight"))
    delta = Delta({name: LowRank(0.3 * torch.randn(16, 2), torch.randn(2, 48))})
    done = export(delta, base, tmp_path / "adapter", _work.How())
    assert done.verdict is not None and done.verdict.equal and done.verdict.gap > 0
    back = opened(tmp_path / "adapter", base)
    assert torch.allclose(back[name].dense(), delta[name].dense(), atol=1e-6)


def test_factors_and_a_bias_of_one_map(tmp_path: Path) -> None:
    """Every change of an encoder's query map: peft, and we, read back what was written."""
    from metier.merge._experts import opened
    from metier.merge._export import export

    base, map_ = Checkpoint(tiny_encoder().path), "encoder.layer.0.attention.self.query"
    delta = Delta({f"{map_}.weight": LowRank(0.3 * torch.randn(32, 2), torch.randn(2, 32)), f"{map_}.bias": Dense(torch.randn(32))})
    done = export(delta, base, tmp_path / "adapter", _work.How())
    assert done.verdict is not None and done.verdict.equal and done.verdict.gap > 0
    back = opened(tmp_path / "adapter", base)
    assert set(back) == set(delta) and all(torch.allclose(back[n].dense(), delta[n].dense(), atol=1e-5) for n in delta)


def test_verification_finds_a_wrong_result(tmp_path: Path) -> None:
    base = tiny_causal()
    right, wrong = checkpoint(base, tmp_path / "right", noise(1)), checkpoint(base, tmp_path / "wrong", noise(2))
    expected = Checkpoint(right)
    assert _verify.written(base, right, expected).gap == 0
    verdict = _verify.written(base, wrong, expected)
    assert not verdict.equal and verdict.gap > 0.01
    with pytest.raises(Failed, match="does not say what it should"):
        _verdict.store(wrong, verdict)
    plain = _verify.judged(base, base, base.model, base.model)
    assert plain.perplexity == plain.base_perplexity and plain.warnings == ()


def test_changes_looks_at_stored_bits() -> None:
    weights = {"w": torch.ones(3, dtype=torch.bfloat16)}
    assert not _verdict.changes(weights, Delta({"w": Dense(torch.full((3,), 1e-4))}))
    assert _verdict.changes(weights, Delta({"w": Dense(torch.tensor([0.0, 0.0, 0.1]))}))


def test_numbers_of_show_and_overlap(tmp_path: Path) -> None:
    base = tiny_causal()
    deltas = [diff(Checkpoint(base.path), Checkpoint(checkpoint(base, tmp_path / str(i), noise(i)))) for i in (1, 2)]
    flat = [torch.cat([d[n].dense().reshape(-1) for n in d]).double() for d in deltas]
    facts = shown(deltas[0])
    assert facts["norm"] == pytest.approx(float(flat[0].norm())) and facts["nonzero"] == int(flat[0].count_nonzero())
    assert facts["layers"][0]["layer"] is None and [r["layer"] for r in facts["layers"][1:]] == [0, 1]
    found = overlap(deltas)
    assert found["cosine"][0][1] == pytest.approx(float(torch.cosine_similarity(*flat, 0)), abs=1e-9)
    both = (flat[0] != 0) & (flat[1] != 0)
    assert found["same_sign"][0][1] == pytest.approx(float((flat[0][both] * flat[1][both] > 0).double().mean()))


def test_verification_finds_entries_of_16_bits_that_were_rounded_otherwise(tmp_path: Path) -> None:
    base, change = tiny_causal(), noise(1)
    right = Checkpoint(checkpoint(base, tmp_path / "right", change, dtype=torch.bfloat16))

    def few(name: str, tensor: Tensor) -> Tensor:
        bits = change(name, tensor).bfloat16().view(torch.int16)
        other = torch.rand(bits.shape, generator=torch.Generator().manual_seed(1)) < 5e-4
        return (bits + other).to(torch.int16).view(torch.bfloat16)

    def cut(name: str, tensor: Tensor) -> Tensor:
        return (change(name, tensor).contiguous().view(torch.int32) & -65536).view(torch.float32)

    verdict = _verify.written(base, checkpoint(base, tmp_path / "few", few, dtype=torch.bfloat16), right)
    assert not verdict.equal and verdict.gap > _verdict.TOLERANCE * verdict.spread
    assert not _verify.written(base, checkpoint(base, tmp_path / "cut", cut, dtype=torch.bfloat16), right).equal
