"""Encoders: pooled embeddings, zero-shot choices by likeness to the labels, and choices by a tuned head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.model.architectures import ENCODERS, base, model, tokenizer
from tests.train.helpers import letters
from torch import Tensor

from metier.delta import Delta, New
from metier.errors import UserError
from metier.model import Specialist, WeightChange, load_base
from metier.model.encoder import HEAD, TEMPERATURE


def literal(name: str, text: str, *, first: bool = False) -> Tensor:
    ids = torch.tensor([tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        hidden = model(name)(input_ids=ids).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden[0] if first else hidden.mean(0), dim=0)


@pytest.mark.parametrize("name", ENCODERS)
def test_embeddings_are_means_over_tokens(name: str) -> None:
    texts = ["a b c", "hello", "x"]
    found = Specialist(base(name, max_length=30)).embed(texts)
    for text, vector in zip(texts, found, strict=True):
        torch.testing.assert_close(vector, literal(name, text), rtol=1e-4, atol=1e-5)


def test_a_model_that_reads_off_its_first_token(tmp_path: Path) -> None:
    model("bert").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    made = load_base(tmp_path, device="cpu")
    assert made.max_length == 8
    torch.testing.assert_close(Specialist(made).embed(["abc"])[0], literal("bert", "abc", first=True), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(Specialist(made).embed(["abcdefghijkl"])[0], literal("bert", "abcdefgh", first=True), rtol=1e-4, atol=1e-5)


def test_untuned_it_chooses_the_likest_label() -> None:
    task = replace(letters(), inputs=("text",))
    answers = Specialist(base("bert", max_length=30)).answer(task, task.dev)
    for example, answer in zip(task.dev, answers, strict=True):
        likeness = torch.stack([literal("bert", c) for c in task.choices]) @ literal("bert", example.fields["text"]) / TEMPERATURE
        assert answer.logprobs == pytest.approx(likeness.log_softmax(0).tolist(), abs=1e-3)
        assert answer.output == task.choices[int(likeness.argmax())]


def test_tuned_it_chooses_by_its_head() -> None:
    task, weight, bias = replace(letters(), inputs=("text",)), torch.randn(2, 32), torch.tensor([0.5, -0.5])
    change = WeightChange(Delta({HEAD[0]: New(weight), HEAD[1]: New(bias)}), ("no", "yes"))
    tuned = Specialist(base("bert", max_length=30), (change,))
    for example, answer in zip(task.dev, tuned.answer(task, task.dev), strict=True):
        logits = (weight @ literal("bert", example.fields["text"]) + bias)[[1, 0]]  # the task's order
        assert answer.logprobs == pytest.approx(logits.log_softmax(0).tolist(), abs=1e-4)
    with pytest.raises(UserError, match="knows 2 labels, not 'maybe'"):
        tuned.answer(replace(task, choices=("yes", "maybe")), task.dev)
