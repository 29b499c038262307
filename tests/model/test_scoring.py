"""Choice scores, whichever way they are read, are the literal ones: one row per choice, no padding, no cache."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.architectures import CAUSAL, OTHERS, SEQ2SEQ, TREES, VOCABULARY, WINDOW, base, literal, model, tokenizer
from torch import Tensor

from metier.errors import UserError
from metier.model import Specialist, load_base
from metier.model import ability as abilities
from metier.model.ability import ability
from metier.model.causal import CausalReader, Voice
from metier.model.seq2seq import Seq2SeqReader
from metier.model.tree import tree
from metier.task import Example, Prompt, Task

CHOICES = [
    [[5], [6, 7], [6, 7, 8], [9, 10, 11]],
    [[5], [6]],
    [[6, 7, 8], [6, 9, 8], [7]],
    [[12, 12]],
]  # prefixes of each other, single tokens
PROMPTS = {"short": (0, (3, 5, 4, 1)), "shared": (9, (1, 3, 2, 1)), "long": (WINDOW + 4, (6, 9, 2, 3))}


def prompts(shared: int, lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    head = [draw.randrange(3, VOCABULARY) for _ in range(shared)]
    return [head + [draw.randrange(3, VOCABULARY) for _ in range(n)] for n in lengths]


def check(name: str, rows: list[list[int]], choices: list[list[list[int]]], prefix: Tensor | None = None, tolerance: float = 1e-4) -> None:
    made = model(name)
    got = CausalReader([Voice(made, prefix)], tokenizer()).choose(rows, choices)
    for row, listed, scores in zip(rows, choices, got, strict=True):
        torch.testing.assert_close(scores, torch.tensor([literal(made, row, c, prefix) for c in listed]), rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("name", CAUSAL)
def test_scores_are_the_literal_ones(name: str, kind: str) -> None:
    check(name, prompts(*PROMPTS[kind]), CHOICES)


@pytest.mark.parametrize("kind", ["short", "long"])
@pytest.mark.parametrize("name", CAUSAL)
def test_with_a_soft_prefix(name: str, kind: str) -> None:
    width = model(name).get_input_embeddings().weight.shape[1]
    check(name, prompts(*PROMPTS[kind]), CHOICES, 0.5 * torch.randn(3, width))


@pytest.mark.parametrize("name", TREES)
def test_which_models_read_trees(name: str) -> None:
    found = ability(model(name))
    assert found.trees
    assert found.caches
    assert found.window == (WINDOW if name in ("gemma2", "gemma3", "mistral-window") else float("inf"))
    assert found.plain_head == (name not in ("gemma2", "granite", "cohere"))


@pytest.mark.parametrize("name", OTHERS)
def test_which_models_do_not(name: str) -> None:
    found = ability(model(name))
    assert not found.trees
    assert found.caches == (name not in ("mamba", "jamba", "lfm2"))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral", *OTHERS])
def test_abilities_are_seen_in_bf16_too(name: str) -> None:
    found, wanted = ability(model(name, torch.bfloat16)), ability(model(name))
    assert (found.trees, found.caches, found.window) == (wanted.trees, wanted.caches, wanted.window)
    assert found.plain_head == wanted.plain_head or name == "mamba"  # whose head is fed in another type


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids"])
def test_a_model_that_ignores_what_it_takes_reads_no_trees(ignored: str, dtype: torch.dtype) -> None:
    made = copy.deepcopy(model("llama", dtype))
    obedient = made.forward

    def forward(*args: Any, position_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        said = {"position_ids": position_ids, "attention_mask": attention_mask}
        return obedient(*args, **(said | {ignored: None}), **options)

    made.forward = forward
    assert not ability(made).trees


def test_tokens_that_tell_nothing_are_not_asked_again() -> None:
    """In bfloat16 the first tokens' answers lie as near as its rounding; later ones tell."""
    asked: list[Tensor] = []

    def way(_: Any, ids: Tensor) -> bool:
        asked.append(ids)
        wanted = torch.full((5,), 8.0)
        return abilities._like(wanted.bfloat16(), wanted, wanted + (0.09 if len(asked) < 3 else 1.0))

    assert abilities._holds(way, model("llama", torch.bfloat16))
    assert len(asked) == 3
    assert len({tuple(ids.tolist()) for ids in asked}) == 3


def test_a_model_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ability(model("llama"))
    monkeypatch.setattr(abilities, "_holds", lambda *_: pytest.fail("tried again"))
    ability(model("llama"))


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom", "mamba"])
def test_batches_and_order_do_not_matter(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, choices = prompts(10, (1, 9, 4, 2, 7, 3)), [CHOICES[i % 4] for i in range(6)]
    reader = CausalReader([Voice(model(name))], tokenizer())
    whole = reader.choose(rows, choices)
    order = [3, 0, 5, 1, 4, 2]
    turned = reader.choose([rows[i] for i in order], [choices[i] for i in order])
    monkeypatch.setattr("metier.model.batching.TOKENS_PER_BATCH", 20)
    small = reader.choose(rows, choices)
    monkeypatch.setattr("metier.model.batching.LOGITS_PER_BATCH", 1)
    single = reader.choose(rows, choices)
    for i in range(6):
        for other in (turned[order.index(i)], small[i], single[i], reader.choose([rows[i]], [choices[i]])[0]):
            torch.testing.assert_close(other, whole[i], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("names", [("llama", "tied"), ("llama", "gpt2"), ("llama", "bloom"), ("gpt2", "mamba"), ("gemma2", "llama")])
def test_voices_are_fused_before_anything_is_read(names: tuple[str, str]) -> None:
    def fuse(logits: Sequence[Tensor]) -> Tensor:
        return logits[0] + 0.7 * logits[1].log_softmax(-1)

    made = [model(n) for n in names]
    prefix = 0.5 * torch.randn(2, made[0].get_input_embeddings().weight.shape[1])
    for soft in (None, prefix):
        rows = prompts(*PROMPTS["long"])
        got = CausalReader([Voice(made[0], soft), Voice(made[1])], tokenizer(), fuse).choose(rows, CHOICES)
        for row, listed, scores in zip(rows, CHOICES, got, strict=True):
            torch.testing.assert_close(scores, torch.tensor([literal(made, row, c, soft, fuse) for c in listed]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bloom"])
def test_in_bf16(name: str) -> None:
    made, rows = model(name, torch.bfloat16), prompts(*PROMPTS["shared"])
    got = CausalReader([Voice(made)], tokenizer()).choose(rows, CHOICES)
    for row, listed, scores in zip(rows, CHOICES, got, strict=True):
        torch.testing.assert_close(scores, torch.tensor([literal(made, row, c) for c in listed]), rtol=0.05, atol=0.3)


def test_nothing_to_read() -> None:
    reader = CausalReader([Voice(model("llama"))], tokenizer())
    assert reader.choose([], []) == []
    assert reader.generate([], max_new_tokens=3) == []


def test_the_tree() -> None:
    found = tree([[5], [6, 7], [6, 7, 8], [6, 9]])
    assert (found.tokens, found.parents, found.depths) == ((6, 7), (0, 1), (1, 2))
    assert found.targets.tolist() == [5, 6, 7, 6, 7, 8, 6, 9]
    assert found.slots.tolist() == [0, 0, 1, 0, 1, 2, 0, 1]
    assert found.visible.tolist() == [[True, False], [True, True]]
    with pytest.raises(ValueError, match="no tokens"):
        tree([[]])


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_seq2seq(name: str) -> None:
    found, rows = base(name), [[*p, 2] for p in prompts(2, (3, 5, 4, 1))]
    got = Seq2SeqReader(found, torch.no_grad).choose(rows, CHOICES)
    start = found.model.config.decoder_start_token_id
    for row, listed, scores in zip(rows, CHOICES, got, strict=True):
        for choice, score in zip(listed, scores.tolist(), strict=True):
            with torch.no_grad():
                logits = (
                    found.model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([[start, *choice[:-1]]]))
                    .logits[0]
                    .log_softmax(-1)
                )
            assert score == pytest.approx(float(logits[range(len(choice)), choice].sum()), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_real_model(shared: Path, dtype: str) -> None:
    """Few-shot prompts with choices of several tokens, read in one pass, against one row per choice."""
    folder = shared / "models" / "stories3M"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    one = Specialist(load_base(folder, dtype=dtype, device="cpu"))
    assert ability(one.base.model).trees
    shots = (("The dog ran and played all day.", "happy"), ("Lily lost her doll and cried.", "very sad"))
    queries = ["Tom got a big red ball.", "It was dark and cold.", "She fell."]
    asked = [Prompt(q, "How do they feel?", shots) for q in queries]
    choices = ["happy", "very sad", "very sad indeed", "angry"]
    got = one.score(asked, [choices] * 3)
    for prompt, scores in zip(asked, got, strict=True):
        text, ids = one.base.encode_prompt(prompt)
        wanted = [literal(one.base.model, ids, one.base.encode_answer(text, c, separator=" ")) for c in choices]
        assert scores.tolist() == pytest.approx(wanted, rel=1e-3 if dtype == "float32" else 3e-2)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom", "mamba", "t5"])
def test_every_example_with_choices_of_its_own(name: str) -> None:
    rows = [
        Example(str(i), {"q": q}, c[0], c)
        for i, (q, c) in enumerate([("ab", ("x", "yz")), ("c", ("yz", "y", "yzz")), ("defghijklmnop", ("q",))])
    ]
    task = Task(name="own", kind="choose", template="{{ q }}:", metric="accuracy", test=tuple(rows))
    one = Specialist(base(name))
    for row, answer in zip(rows, one.answer(task, rows), strict=True):
        prompt = one.prompt(task, row)
        scores = one.score([prompt], [row.choices or ()])[0]
        assert answer.choices == row.choices
        assert answer.logprobs == pytest.approx(scores.log_softmax(0).tolist(), abs=1e-4)
        assert answer.output == (row.choices or ())[int(scores.argmax())]
        assert answer.confidence == pytest.approx(math.exp(max(answer.logprobs or ())), abs=1e-5)


@pytest.mark.parametrize("listed", [[], [""], ["a", ""]])
def test_continuations_without_tokens(listed: list[str]) -> None:
    with pytest.raises(UserError, match="prompt 0: continuations"):
        Specialist(base("llama")).score([Prompt("a", separator="")], [listed])
