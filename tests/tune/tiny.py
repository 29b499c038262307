"""Tiny random models of bytes, and two tiny tasks, for tests of methods."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from metier.model import Base, load_base
from metier.model.change import no_grad_module
from metier.model.loading import fingerprint
from metier.task import Example, Task

SPECIAL = ("<pad>", "</s>", "[CLS]")


def tokenizer(extra: tuple[str, ...] = (), *, begin: bool = False) -> PreTrainedTokenizerFast:
    """Every byte is a token; `begin` puts [CLS] before each text."""
    letters = [*SPECIAL, *extra, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if begin:
        made.post_processor = processors.TemplateProcessing("[CLS] $A", "[CLS] $A </s> $B", [("[CLS]", 2), ("</s>", 1)])
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", cls_token="[CLS]", model_max_length=256)


def llama(seed: int = 0, *, hidden: int = 32, layers: int = 2, vocabulary: int = 259, tied: bool = False) -> LlamaForCausalLM:
    """A Llama with 4 heads over 2 keys and weights large enough to have opinions."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, tie_word_embeddings=tied, bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def t5(seed: int = 0) -> T5ForConditionalGeneration:
    """A T5 with 4 heads."""
    torch.manual_seed(seed)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=259, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0
        )
    )


def bert(seed: int = 0) -> BertModel:
    """A BERT with 4 heads."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=259,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    return BertModel(config)


def base(model: Any = None, family: Any = "causal", name: str = "tiny") -> Base:
    """A base of a model in memory."""
    model = llama() if model is None else model
    no_grad_module(model)
    return Base(name, family, model, tokenizer(begin=family == "encoder"), fingerprint(model), 256)


def stored(place: Path, model: Any, words: Any = None) -> Base:
    """A base on disk."""
    model.save_pretrained(place)
    (words or tokenizer()).save_pretrained(place)
    return load_base(place, device="cpu")


def choose(count: int = 24, *, dev: int = 8) -> Task:
    """Say whether a letter is of the first half of the alphabet."""
    rows = [
        Example(f"r{i}", {"text": f"letter {c}"}, "low" if c < "n" else "high")
        for i, c in enumerate((string.ascii_lowercase * 9)[: count + dev])
    ]
    return Task(
        name="half",
        kind="choose",
        template="{{ text }}:",
        metric="accuracy",
        choices=("low", "high"),
        inputs=("text",),
        train=rows[dev:],
        dev=rows[:dev],
    )


def generate(count: int = 16, *, dev: int = 4) -> Task:
    """Repeat a letter twice."""
    rows = [Example(f"g{i}", {"text": c}, c * 2) for i, c in enumerate((string.ascii_lowercase * 9)[: count + dev])]
    return Task(name="twice", kind="generate", template="{{ text }} =", metric="exact", train=rows[dev:], dev=rows[:dev], max_new_tokens=4)


def snapshot(model: Any) -> dict[str, torch.Tensor]:
    """Copies of all tensors."""
    return {n: t.clone() for n, t in model.state_dict().items()}
