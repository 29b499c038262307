"""What is learnt, and that packing changes nothing but the time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.model.architectures import CAUSAL, OTHERS, TREES, WINDOW, base
from tests.train.helpers import letters

from metier.errors import UserError
from metier.model import Specialist, WeightChange
from metier.prompt.zero_shot import Instruction
from metier.task import Example
from metier.train import Trainable
from metier.train import items as train_items
from metier.train.items import IGNORE, collate, items


def gradients(what: Trainable, *, pack: bool) -> tuple[float, dict[str, torch.Tensor], int]:
    rows = items(what.start, what.task, what.task.train)
    batch = collate(rows, what.start, pack=pack)
    with what.live():
        loss = what.loss(batch) / batch.learnt
        loss.backward()
        found = {n: p.grad.clone() for n, p in what.parameters.items() if p.grad is not None}
    return float(loss.detach()), found, len(batch.labels)


def whole(name: str) -> Trainable:
    start = Specialist(base(name))
    return Trainable(start, letters(), dict(start.base.model.named_parameters()), change=lambda: WeightChange(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TREES)
def test_packed_is_padded(name: str) -> None:
    what = whole(name)
    assert what.can_pack()
    loss, grads, rows = gradients(what, pack=True)
    other, padded, plain = gradients(what, pack=False)
    window = name in ("gemma2", "gemma3", "mistral-window")
    assert rows < plain or window
    assert loss == pytest.approx(other, abs=1e-5)
    assert grads.keys() == padded.keys()
    for key in grads:
        torch.testing.assert_close(grads[key], padded[key], rtol=1e-3, atol=2e-5)


def test_within_a_window_rows_are_shared() -> None:
    what = whole("gemma2")
    assert (
        collate([r for r in items(what.start, what.task, what.task.train) if len(r) <= WINDOW] * 2, what.start, pack=True).visible
        is not None
    )


def test_items_are_made_once_and_again_where_anything_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search trains every candidate on the same items; another start, task, split or reserve has items of its own."""
    made: list[int] = []
    real = train_items._items
    monkeypatch.setattr(train_items, "_items", lambda *asked: made.append(1) or real(*asked))
    start, task = Specialist(replace(base("llama"))), letters()
    first = items(start, task, task.train)
    items(start, task, task.train)[0] = None  # type: ignore[call-overload]  # a caller's list is its own
    assert items(Specialist(start.base), task.sealed(), list(task.train)) == first
    assert len(made) == 1
    shouted, short = replace(task, template="{{ text }} A?"), task.train[:-1]
    sentence = start.then(Instruction("Say so."))
    found = [
        items(start, shouted, task.train),
        items(sentence, task, task.train),
        items(start, task, short),
        items(start, task, task.train, reserve=2),
    ]
    assert len(made) == 5
    assert found == [real(start, shouted, task.train, 0), real(sentence, task, task.train, 0), first[:-1], first]
    assert found[0] != first != found[1]


@pytest.mark.parametrize("name", OTHERS)
def test_models_that_cannot_share_rows(name: str) -> None:
    assert not whole(name).can_pack()


@pytest.mark.parametrize("name", CAUSAL)
def test_the_loss_is_the_literal_one(name: str) -> None:
    what = whole(name)
    rows = items(what.start, what.task, what.task.train[:4])
    total = 0.0
    for row in rows:
        with torch.no_grad():
            logits = what.start.base.model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0].float().log_softmax(-1)
        total -= sum(float(logits[i - 1, t]) for i, t in enumerate(row.labels) if t != IGNORE)
    for pack in {False, what.can_pack()}:
        batch = collate(rows, what.start, pack=pack)
        with torch.no_grad():
            assert float(what.loss(batch)) == pytest.approx(total, rel=1e-4)
        assert batch.learnt == sum(t != IGNORE for r in rows for t in r.labels)
        assert batch.tokens == sum(map(len, rows))


def test_what_is_learnt_is_the_answer_and_the_end() -> None:
    start, task = Specialist(base("llama")), letters()
    row = items(start, task, task.train[:1])[0]
    decode = start.base.tokenizer.decode
    assert decode(row.ids) == "ab0 a? yes</s>"
    assert decode([t for t in row.labels if t != IGNORE]) == " yes</s>"
    seq2seq = Specialist(base("t5"))
    row = items(seq2seq, task, task.train[:1])[0]
    assert decode(row.labels) == "yes</s>"


def test_training_teaches_what_scoring_reads() -> None:
    """The mean loss of an answer is minus what `score` gives to it, the end left out."""
    start, task = Specialist(base("llama")), letters()
    example = task.train[1]
    row = items(start, task, [example])[0]
    prompt = start.prompt(task, example)
    scored = float(start.score([prompt], [[example.answer]])[0][0])
    what = replace(whole("llama"), start=start)
    labels = [t if i < len(row) - 1 else IGNORE for i, t in enumerate(row.labels)]
    with torch.no_grad():
        loss = what.loss(collate([replace(row, labels=tuple(labels))], start, pack=False))
    assert float(loss) == pytest.approx(-scored, rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_nothing_to_learn(name: str) -> None:
    start = Specialist(base(name))
    with pytest.raises(UserError, match="no training examples"):
        items(start, letters(), [])
    with pytest.raises(UserError, match="example x: the answer is empty"):
        items(start, replace(letters(), separator=""), [Example("x", {"text": "a"}, "")])


def test_prompts_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match="task letters, example e1: prompt of"):
        items(Specialist(base("llama", max_length=13)), letters(), letters().train)


def test_labels_an_encoder_does_not_know() -> None:
    with pytest.raises(UserError, match="example x: 'maybe' is none of the task's choices"):
        items(Specialist(base("bert")), letters(), [Example("x", {"text": "a"}, "maybe")])
