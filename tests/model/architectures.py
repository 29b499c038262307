"""Tiny random models of many architectures, with a tokenizer, in memory: what the readers and the training loop must be right on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from metier.model import Base
from metier.model.change import no_grad_module
from metier.model.loading import fingerprint

VOCABULARY = 96
WINDOW = 12
_SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA = _SMALL | _TOKENS | {"intermediate_size": 64, "num_key_value_heads": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 128} | _TOKENS
_GEMMA = _LLAMA | {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}

# name -> (model class, configuration); the first group reads trees of answers, the second must fall back
TREES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _LLAMA),
    "qwen2": ("Qwen2", _LLAMA),
    "gpt2": ("GPT2LMHead", _GPT),
    "gpt-neox": ("GPTNeoX", _SMALL | _TOKENS | {"intermediate_size": 64}),
    "opt": ("OPT", _SMALL | _TOKENS | {"ffn_dim": 64, "word_embed_proj_dim": 16, "dropout": 0.0}),
    "gemma2": ("Gemma2", _GEMMA),
    "gemma3": ("Gemma3", _GEMMA | {"layer_types": ["sliding_attention", "full_attention"]}),
    "mistral-window": ("Mistral", _LLAMA | {"sliding_window": WINDOW}),
    "phi": ("Phi", _SMALL | _TOKENS | {"intermediate_size": 64}),
    "granite": ("Granite", _LLAMA | {"logits_scaling": 3.0}),
    "cohere": ("Cohere", _LLAMA | {"logit_scale": 0.25}),
    "mixtral": ("Mixtral", _LLAMA | {"num_local_experts": 2}),
    "tied": ("Llama", _LLAMA | {"tie_word_embeddings": True}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY} | _TOKENS),
    "falcon-alibi": ("Falcon", _SMALL | _TOKENS | {"alibi": True, "new_decoder_architecture": False}),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": VOCABULARY, "max_seq_len": 128} | _TOKENS),
    "mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "vocab_size": VOCABULARY} | _TOKENS),
    "jamba": ("Jamba", _LLAMA | {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2,
                                 "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False}),
    "lfm2": ("Lfm2", _LLAMA | {"layer_types": ["conv", "full_attention"]}),
}  # fmt: skip
CAUSAL = TREES | OTHERS
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _SMALL | {"intermediate_size": 64, "pad_token_id": 0, "max_position_embeddings": 40}),
    "roberta": ("Roberta", _SMALL | {"intermediate_size": 64, "pad_token_id": 0, "max_position_embeddings": 40}),
    "mpnet": ("MPNet", _SMALL | {"intermediate_size": 64, "pad_token_id": 0, "max_position_embeddings": 40}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 40},
    ),
}
SEQ2SEQ: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "num_layers": 2, "num_heads": 4, "d_ff": 64,
                  "decoder_start_token_id": 0} | _TOKENS),
    "bart": ("Bart", {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
                      "forced_eos_token_id": None,
                      "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
                      "max_position_embeddings": 128, "decoder_start_token_id": 2} | _TOKENS),
}  # fmt: skip


def tokenizer(*, bos: bool = False, pad: bool = True) -> Any:
    """Every printable ASCII character and the line break a token; 0 is <pad>, 1 <s>, 2 </s>."""
    letters = ["<pad>", "<s>", "</s>", "\n", *(chr(c) for c in range(32, 32 + VOCABULARY - 4))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(letters)}, unk_token="<s>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>"} | ({"pad_token": "<pad>"} if pad else {})
    return t.PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **names)


@functools.cache
def model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model with random weights, large enough that every token matters. Cached: tests leave it as it was."""
    cls, options = (CAUSAL | ENCODERS | SEQ2SEQ)[name]
    config = getattr(t, {"GPT2LMHead": "GPT2", "Gemma3": "Gemma3Text"}.get(cls, cls) + "Config")(**options)
    if cls == "DistilBert":
        config.pad_token_id = 0
    kind = (
        "Model"
        if name in ENCODERS
        else "ForConditionalGeneration"
        if name in SEQ2SEQ
        else "Model"
        if cls == "GPT2LMHead"
        else "ForCausalLM"
    )
    torch.manual_seed(0)
    made = getattr(t, cls + kind)(config)
    with torch.no_grad():
        for key, p in made.named_parameters():
            if p.ndim > 1 and "A_log" not in key:
                p.normal_(0, 0.6 if "embed" in key or "wte" in key or "shared" in key else 0.2)
            elif "bias" in key:
                p.normal_(0, 0.1)
    made.to(dtype)
    no_grad_module(made)
    return made


def base(name: str, *, dtype: torch.dtype = torch.float32, bos: bool = False, truncate: bool = False, max_length: int = 128) -> Base:
    """The model as a base."""
    family: Any = "encoder" if name in ENCODERS else "seq2seq" if name in SEQ2SEQ else "causal"
    made = model(name, dtype)
    return Base(name, family, made, tokenizer(bos=bos), fingerprint(made), max_length, truncate=truncate)


def literal(
    made: Any, prompt: list[int], choice: list[int], prefix: torch.Tensor | None = None, fuse: Callable[..., Any] | None = None
) -> float:
    """log p(choice | prompt) from one unpadded row without cache: the definition."""
    voices = made if isinstance(made, list) else [made]
    logits = []
    for voice in voices:
        ids = torch.tensor([prompt + choice])
        embeds = voice.get_input_embeddings()(ids)
        soft = prefix if prefix is not None and voice is voices[0] else embeds[0, :0]
        with torch.no_grad():
            result = (
                voice(inputs_embeds=torch.cat([soft.to(embeds.dtype)[None], embeds], 1), use_cache=False)
                if len(soft)
                else voice(input_ids=ids, use_cache=False)
            )
        logits.append(result.logits[:, len(soft) :])
    together = (fuse(logits) if fuse else logits[0]).float().log_softmax(-1)
    return sum(float(together[0, len(prompt) - 1 + i, token]) for i, token in enumerate(choice))
