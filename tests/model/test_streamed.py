"""Models whose weights are read when they are used say what the whole model says, in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from metier.delta import Checkpoint
from metier.errors import UserError
from metier.merge import _verify
from metier.model import load_base
from metier.model.streamed import reading, streamed

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 50}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaForCausalLM", SMALL),
    "Qwen2": ("Qwen2ForCausalLM", SMALL | {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "Gemma2": ("Gemma2ForCausalLM", SMALL | {"num_key_value_heads": 1, "head_dim": 8}),
    "Mistral": ("MistralForCausalLM", SMALL | {"num_key_value_heads": 1}),
    "GPT2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50, "n_positions": 40}),
    "GPTNeoX": ("GPTNeoXForCausalLM", SMALL),
    "Bert": ("BertModel", SMALL),
    "T5": ("T5ForConditionalGeneration", {
        "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 50, "decoder_start_token_id": 0,
    }),
    "Bart": ("BartForConditionalGeneration", {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 50, "max_position_embeddings": 40,
    }),
    "OPT": ("OPTForCausalLM", {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 16, "vocab_size": 50, "word_embed_proj_dim": 16,
        "max_position_embeddings": 40,
    }),
    "Mixtral": ("MixtralForCausalLM", SMALL | {"num_key_value_heads": 1, "num_local_experts": 2}),
    "ModernBert": ("ModernBertModel", SMALL),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
def test_every_architecture_says_the_same(kind: str, tmp_path: Path) -> None:
    name, settings = MODELS[kind]
    made = getattr(transformers, name)
    torch.manual_seed(0)
    whole = made(made.config_class(**settings, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()
    for parameter in whole.parameters():  # norms and biases that are not all one or zero
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    whole.save_pretrained(tmp_path)
    found = reading(lambda: made(whole.config), Checkpoint(tmp_path))
    inputs = {"input_ids": torch.tensor([[5, 7, 9, 3]])} | ({"labels": torch.tensor([[4, 6]])} if "Conditional" in name else {})
    if found is None:  # files that name weights otherwise than the model: said, and never half done
        assert kind in ("GPTNeoX", "Mixtral")
        return
    with torch.inference_mode():
        assert torch.equal(whole(**inputs)[0], found(**inputs)[0])
        assert torch.equal(whole(**inputs)[0], found(**inputs)[0])  # and again: what was let go of is read anew
    assert all(p.is_meta for p in found.parameters())


def test_a_lacking_weight_is_noticed(tmp_path: Path) -> None:
    base = load_base("metier-nano", device="cpu")
    weights = dict(Checkpoint(base.path))
    del weights[next(n for n in weights if "down_proj" in n)]
    assert reading(lambda: type(base.model)(base.model.config), weights) is None


@pytest.mark.parametrize("name", ["metier-nano", "metier-encoder"])
def test_verification_reads_what_the_whole_model_reads(name: str) -> None:
    whole = load_base(name, device="cpu")
    lean = streamed(whole.path)
    assert lean is not None and isinstance(lean.model, nn.Module)
    assert lean.parameters == whole.parameters and lean.max_length == whole.max_length
    outputs = [_verify.Probe(b).outputs(b.model) for b in (whole, lean)]
    assert torch.equal(*outputs)


def test_texts_read_together_are_read_as_alone() -> None:
    base = load_base("metier-nano", device="cpu")
    probe = _verify.Probe(base)
    with torch.inference_mode():
        alone = torch.cat([base.model(input_ids=torch.tensor([ids])).logits[0] for ids in probe.ids])
    assert torch.allclose(probe.outputs(base.model), alone, atol=1e-4)


def test_a_model_that_can_only_be_verified_whole_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = load_base("metier-nano", device="cpu").path
    monkeypatch.setattr(_verify, "streamed", lambda _: None)
    assert _verify.checkable(place).parameters > 0
    monkeypatch.setattr(_verify.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    with pytest.raises(UserError, match=r"GB of memory to verify.*--no-verify"):
        _verify.checkable(place)


PROGRAM = """
import resource, sys, torch
from metier.merge import _verify
torch.set_num_threads(1)
def anonymous():
    return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1]) // 1024
base = _verify.streamed(sys.argv[1])
probe = _verify.Probe(base)
before, most = anonymous(), [0]
for module in base.model.modules():
    module.register_forward_hook(lambda *_: most.__setitem__(0, max(most[0], anonymous())))
probe.outputs(base.model)
print(most[0] - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_takes_little_memory(tmp_path: Path) -> None:
    """120 MB of bfloat16 weights, of which the largest tensor takes 4 MB in float32."""
    base = load_base("metier-nano", device="cpu")
    base.tokenizer.save_pretrained(tmp_path)
    size = len(base.tokenizer)
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=1536, num_hidden_layers=18, num_attention_heads=8, vocab_size=size, tie_word_embeddings=True
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    stored = (tmp_path / "model.safetensors").stat().st_size / 1e6
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True, timeout=240)
    assert stored > 100 and float(done.stdout) < 0.5 * stored  # as a whole it would take twice what is stored
