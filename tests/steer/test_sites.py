"""Where heads are found: every architecture's output projections, and none of its other linear maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from metier.errors import KeyMismatch, UserError
from metier.model.sites import Site, changed, sites

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 32,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "LlamaForCausalLM": ("LlamaConfig", SMALL | {"num_key_value_heads": 2}, [f"model.layers.{i}.self_attn.o_proj" for i in (0, 1)]),
    "Qwen2ForCausalLM": ("Qwen2Config", SMALL | {"num_key_value_heads": 2}, [f"model.layers.{i}.self_attn.o_proj" for i in (0, 1)]),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
        [f"transformer.h.{i}.attn.c_proj" for i in (0, 1)],
    ),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", SMALL, [f"gpt_neox.layers.{i}.attention.dense" for i in (0, 1)]),
    "OPTForCausalLM": (
        "OPTConfig",
        SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32},
        [f"model.decoder.layers.{i}.self_attn.out_proj" for i in (0, 1)],
    ),
    "FalconForCausalLM": ("FalconConfig", SMALL, [f"transformer.h.{i}.self_attention.dense" for i in (0, 1)]),
    "BloomForCausalLM": (
        "BloomConfig",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
        [f"transformer.h.{i}.self_attention.dense" for i in (0, 1)],
    ),
    "PhiForCausalLM": ("PhiConfig", SMALL, [f"model.layers.{i}.self_attn.dense" for i in (0, 1)]),
    "BertModel": ("BertConfig", SMALL, [f"encoder.layer.{i}.attention.output.dense" for i in (0, 1)]),
    "MPNetModel": ("MPNetConfig", SMALL, [f"encoder.layer.{i}.attention.attn.o" for i in (0, 1)]),
    "ModernBertModel": ("ModernBertConfig", SMALL | {"pad_token_id": 0}, [f"layers.{i}.attn.Wo" for i in (0, 1)]),
    "DistilBertModel": (
        "DistilBertConfig",
        {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
        [f"transformer.layer.{i}.attention.out_lin" for i in (0, 1)],
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4},
        [
            "encoder.block.0.layer.0.SelfAttention.o",
            "decoder.block.0.layer.0.SelfAttention.o",
            "decoder.block.0.layer.1.EncDecAttention.o",
        ],
    ),
    "BartForConditionalGeneration": (
        "BartConfig",
        {
            "vocab_size": 64,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
        },
        [f"model.{p}.layers.0.{a}.out_proj" for p, a in (("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "encoder_attn"))],
    ),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, MODELS[name][0])(**MODELS[name][1])).eval()


@pytest.mark.parametrize("name", MODELS)
def test_projections_are_found_and_heard(name: str) -> None:
    model = build(name)
    found = sites(model)
    assert list(found.values()) == [Site(n, 4, 8) for n in MODELS[name][2]]
    heard: dict[str, int] = {}

    def listen(site: str) -> Any:
        def hear(z: torch.Tensor) -> torch.Tensor:
            heard[site] = z.shape[-1]
            return z

        return hear

    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    if "Conditional" in name:
        inputs["decoder_input_ids"] = torch.tensor([[0, 5]])
    with torch.no_grad():
        before = model(**inputs)[0]
        with changed(model, {n: listen(n) for n in found}):
            during = model(**inputs)[0]
        with changed(model, {next(iter(found)): lambda z: z + 1}):
            moved = model(**inputs)[0]
        after = model(**inputs)[0]
    assert heard == dict.fromkeys(found, 32)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert not torch.allclose(before, moved)


def test_models_without_heads_are_refused() -> None:
    with pytest.raises(UserError, match="base x: Sequential has no attention output projection"):
        sites(nn.Sequential(nn.Linear(4, 4)), base="base x")


def test_torchs_own_attention_is_not_a_site() -> None:
    with pytest.raises(UserError, match="no attention output projection"):
        sites(nn.MultiheadAttention(8, 2))


def test_an_unknown_site_is_refused_and_hooks_are_removed() -> None:
    model = build("LlamaForCausalLM")
    first = next(iter(sites(model)))
    with (
        pytest.raises(KeyMismatch, match=r"no attention projection 'model\.nowhere'"),
        changed(model, {first: lambda z: z, "model.nowhere": lambda z: z}),
    ):
        pass
    with pytest.raises(RuntimeError, match="stop"), changed(model, {first: lambda z: z}):
        raise RuntimeError("stop")
    assert not any(m._forward_pre_hooks for m in model.modules())
