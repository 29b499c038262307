"""Bases and tasks so small that any method runs on them in a second: random weights, a real tokenizer, real prompts.

Each base is written once to a folder of its own and loaded from there as a user's base is, so that its name can be given
wherever a method wants a base by name.
"""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from metier.model import Base, load_base
from metier.task import Document, Example, Task

COLOURS = {"red": "warm", "orange": "warm", "blue": "cold", "green": "cold"}
THINGS = ("hat", "coat", "boat", "lamp", "door")
PLACES = ("Rome", "Oslo", "Lima", "Cairo", "Kyoto", "Paris")
PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal", "Ida", "Jon", "Kim", "Lea", "Mia", "Ned", "Oda", "Pia")


# --- tasks ---------------------------------------------------------------------------------------------------------------
def tiny_task(kind: str, *, train: int = 12, dev: int = 6, test: int = 4) -> Task:
    """A task of 'choose', 'generate' or 'rank' with train, dev, test, an instruction and documents."""
    return {"choose": choose_task, "generate": generate_task, "rank": rank_task}[kind](train, dev, test)


def choose_task(train: int = 12, dev: int = 6, test: int = 4) -> Task:
    """Is the colour of a thing warm or cold?"""
    rows = [
        Example(f"c{i}", {"text": f"a {colour} {thing}"}, COLOURS[colour])
        for i, (colour, thing) in enumerate((c, t) for t in THINGS for c in COLOURS)
    ]
    rows += [Example(f"c{len(rows) + i}", {"text": f"{e.fields['text']} indeed"}, e.target) for i, e in enumerate(rows)]
    return Task(
        name="colours", kind="choose", template="Text: {{ text }}\nFeeling:", metric="accuracy", choices=("warm", "cold"),
        instruction="Say how the colour feels.", documents=_homes(), **_split(rows, train, dev, test),
    )  # fmt: skip


def generate_task(train: int = 12, dev: int = 6, test: int = 4) -> Task:
    """Where does a person live? The documents say."""
    rows = [Example(f"g{i}", {"question": f"Where does {p} live?"}, home(i)) for i, p in enumerate(PEOPLE)]
    rows += [Example(f"h{i}", {"question": f"In which town is the house of {p}?"}, home(i)) for i, p in enumerate(PEOPLE)]
    return Task(
        name="homes", kind="generate", template="Question: {{ question }}\nAnswer:", metric="exact", max_new_tokens=4,
        documents=_homes(), **_split(rows, train, dev, test),
    )  # fmt: skip


def rank_task(train: int = 12, dev: int = 6, test: int = 4) -> Task:
    """Which document says where a person lives?"""
    rows = [Example(f"r{i}", {"query": f"home of {p}"}, {f"doc-{p}": 1}) for i, p in enumerate((*PEOPLE, *PEOPLE))]
    rows = [Example(e.id, {"query": f"{e.fields['query']} {i // len(PEOPLE) or ''}".strip()}, e.target) for i, e in enumerate(rows)]
    return Task(name="finding", kind="rank", template="{{ query }}", metric="ndcg", documents=_homes(), **_split(rows, train, dev, test))


def home(i: int) -> str:
    return PLACES[i * 7 % len(PLACES)]


def _homes() -> tuple[Document, ...]:
    return tuple(Document(f"doc-{p}", f"{p} has a house in {home(i)} and likes the {THINGS[i % 5]} there.") for i, p in enumerate(PEOPLE))


def _split(rows: list[Example], train: int, dev: int, test: int) -> dict[str, tuple[Example, ...]]:
    if train + dev + test > len(rows):
        raise ValueError(f"only {len(rows)} examples")
    cuts = (0, train, train + dev, train + dev + test)
    return {name: tuple(rows[a:b]) for name, a, b in zip(("train", "dev", "test"), cuts, cuts[1:], strict=False)}


# --- bases ---------------------------------------------------------------------------------------------------------------
@functools.cache
def tiny_causal(*, seed: int = 0, hidden: int = 32, max_length: int = 256) -> Base:
    """A Llama of two layers; bases of other sizes and seeds share its vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=max_length, tie_word_embeddings=True, **_ids(tokenizer),
    )  # fmt: skip
    return _base(LlamaForCausalLM, config, tokenizer, seed)


@functools.cache
def tiny_seq2seq(*, seed: int = 0, max_length: int = 256) -> Base:
    """A T5 of two and two layers."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = tiny_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4, n_positions=max_length,
        decoder_start_token_id=tokenizer.pad_token_id, **_ids(tokenizer),
    )  # fmt: skip
    return _base(T5ForConditionalGeneration, config, tokenizer, seed)


@functools.cache
def tiny_encoder(*, seed: int = 0, max_length: int = 128) -> Base:
    """A BERT of two layers."""
    from transformers import BertConfig, BertModel

    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=max_length, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return _base(BertModel, config, tokenizer, seed)


@functools.cache
def tiny_tokenizer() -> Any:
    """A byte-level BPE of 400 tokens, trained on the tasks' own text; <s> begins every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A </s> $B:1", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def _corpus() -> list[str]:
    texts = [d.text for d in _homes()]
    for kind in ("choose", "generate", "rank"):
        task = tiny_task(kind)
        texts += [task.prompt(e).text() + task.separator + json.dumps(e.target) for e in task.train]
    return texts


def _ids(tokenizer: Any) -> dict[str, int]:
    return {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}


def _base(architecture: Any, config: Any, tokenizer: Any, seed: int) -> Base:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture(config)
    with torch.no_grad():  # small random weights say nearly the same to everything: make them differ
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "relative_attention_bias" not in name:
                parameter.mul_(3.0)
    folder = Path(tempfile.mkdtemp(prefix=f"metier-{config.model_type}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_base(str(folder), device="cpu")
