"""Emulated fine-tuning: identities that must be exact, and a slow literal computation of choices and of each written token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tune import tiny

from metier.decode.emulated_fine_tuning import EmulatedTuning, Settings, emulated_fine_tuning
from metier.delta import Delta, Dense
from metier.errors import BaseMismatch, UserError
from metier.method import find
from metier.model import Base, InputChange, Specialist, WeightChange, load_base
from metier.model import change as changes
from metier.train import Budget, Run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Base, str]:
    """(large base, path of a small one)."""
    tiny.stored(tmp_path / "small", tiny.llama(7, hidden=16, layers=1, tied=True))
    return tiny.stored(tmp_path / "large", tiny.llama(1)), str(tmp_path / "small")


def other(small: str, size: float = 0.3) -> Delta:
    """A change of every tensor of the small base."""
    found = load_base(small, device="cpu")
    torch.manual_seed(5)
    return Delta({n: Dense(size * torch.randn_like(p)) for n, p in found.model.named_parameters()}, found.fingerprint)


def literal(large: Base, small: str, delta: Delta, scale: float, ids: list[int]) -> torch.Tensor:
    """log p~ of the next token after each position: (tokens, vocabulary), every model run on its own on the whole text."""
    found, rows = load_base(small, device="cpu").model, torch.tensor([ids])
    with torch.no_grad():
        big, base = large.model(rows).logits[0].log_softmax(-1), found(rows).logits[0].log_softmax(-1)
        for name, p in found.named_parameters():
            p += delta[name].dense()
        tuned = found(rows).logits[0].log_softmax(-1)
    return (big + scale * (tuned - base)).log_softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_choices_and_text_are_those_of_the_literal_formula(pair: tuple[Base, str], scale: float) -> None:
    large, small = pair
    delta = other(small)
    emulated = Specialist(large, (EmulatedTuning(small, "float32", scale, delta),))
    task = tiny.choose()
    for example, answer in zip(task.dev, emulated.answer(task, task.dev), strict=True):
        text, ids = large.encode_prompt(task.prompt(example))
        scores = []
        for choice in task.choices:
            tail = large.encode_answer(text, choice, separator=" ")
            table = literal(large, small, delta, scale, ids + tail)
            scores.append(sum(table[len(ids) - 1 + k, t] for k, t in enumerate(tail)))
        torch.testing.assert_close(torch.tensor(answer.logprobs), torch.stack(scores).log_softmax(-1), atol=2e-4, rtol=1e-3)
    plain = Specialist(large)
    assert [a.logprobs for a in plain.answer(task, task.dev)] != [a.logprobs for a in emulated.answer(task, task.dev)]

    task = replace(tiny.generate(), stop=())
    for example, answer in zip(task.dev, emulated.answer(task, task.dev), strict=True):
        ids = large.encode_prompt(task.prompt(example))[1]
        written: list[int] = []
        while len(written) < task.max_new_tokens and 1 not in written:
            written.append(int(literal(large, small, delta, scale, ids + written)[-1].argmax()))
        assert answer.output == large.tokenizer.decode([t for t in written if t > 2]).lstrip()


@pytest.mark.parametrize("nothing", ["scale", "delta"])
def test_no_change_leaves_the_large_base_bitwise(pair: tuple[Base, str], nothing: str) -> None:
    large, small = pair
    delta = other(small) if nothing == "scale" else Delta({}, other(small).base)
    emulated = Specialist(large, (EmulatedTuning(small, "float32", 0.0 if nothing == "scale" else 1.0, delta),))
    for task in (tiny.choose(), tiny.generate()):
        told, plain = emulated.answer(task, task.dev), Specialist(large).answer(task, task.dev)
        assert [(a.output, a.logprobs, a.confidence) for a in told] == [(a.output, a.logprobs, a.confidence) for a in plain]


def test_it_beside_a_small_large_base_is_tuning(tmp_path: Path) -> None:
    """Where large and small are the same model, p~ is the tuned model."""
    base = tiny.stored(tmp_path / "same", tiny.llama(1))
    delta = other(str(tmp_path / "same"), 0.05)
    task = tiny.choose()
    emulated = Specialist(base, (EmulatedTuning(str(tmp_path / "same"), "float32", 1.0, delta),)).choose(task, task.dev)
    tuned = Specialist(base, (WeightChange(delta),)).choose(task, task.dev)
    for a, b in zip(emulated, tuned, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["choose", "generate"])
def test_it_tunes_the_small_base_and_is_saved(pair: tuple[Base, str], kind: str, tmp_path: Path) -> None:
    large, small = pair
    task = (tiny.choose() if kind == "choose" else tiny.generate()).sealed()
    task = replace(task, train=[replace(e, target=task.choices[1] if task.choices else "bb") for e in task.train], dev=())
    weights, run = tiny.snapshot(large.model), Run(budget=Budget(160))
    change = emulated_fine_tuning(Specialist(large), task, Settings(small=small, lr=3e-2, batch_size=8), run)
    assert run.spent.trainable == sum(p.numel() for p in load_base(small).model.parameters())
    assert all(torch.equal(weights[n], t) for n, t in large.model.state_dict().items())

    changes.save(change, tmp_path / "c", base=large.fingerprint)
    loaded = changes.load(tmp_path / "c", base=large.fingerprint)
    assert not loaded._loaded  # the small base is read when it is first needed
    told, again, plain = (Specialist(large, c).answer(task, task.train) for c in ((change,), (loaded,), ()))
    assert [(a.output, a.logprobs) for a in told] == [(a.output, a.logprobs) for a in again]
    if kind == "choose":
        assert sum(a.logprobs[1] for a in told) > sum(a.logprobs[1] for a in plain) + 0.5 * len(told)
    else:
        assert sum("b" in a.output for a in told) > sum("b" in a.output for a in plain)
    assert loaded._loaded
    voices = loaded.voices(large)
    assert voices[0].model is not voices[1].model
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(voices[0].model.parameters(), voices[1].model.parameters(), strict=True))


def test_the_small_base_is_trained_on_what_the_start_shows(pair: tuple[Base, str], monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = pair
    seen: list[Specialist] = []

    class Hint(InputChange):
        def prompt(self, prompt, example, task):
            return prompt.with_(instruction="Low or high?")

        state = from_state = None  # type: ignore[assignment]

    class Soft(Hint):
        def prefix(self) -> torch.Tensor:
            return torch.zeros(2, 32)

    def tune(start, task, run, choose, **options):
        seen.append(start)
        return WeightChange(Delta({}, start.base.fingerprint))

    monkeypatch.setattr("metier.decode.emulated_fine_tuning.tune", tune)
    hint, soft, weights = Hint(), Soft(), WeightChange(Delta({}))
    emulated_fine_tuning(Specialist(large, (hint, soft, weights)), tiny.choose().sealed(), Settings(small=small), Run())
    assert seen[0].changes == (hint,)
    assert seen[0].base.hidden == 16


def test_padded_output_layers_are_cut(tmp_path: Path) -> None:
    large = tiny.stored(tmp_path / "large", tiny.llama(1))
    tiny.stored(tmp_path / "small", tiny.llama(7, hidden=16, layers=1, vocabulary=272))
    change = EmulatedTuning(str(tmp_path / "small"), "float32", 1.0, other(str(tmp_path / "small")))
    assert change.fuse([torch.zeros(2, 259), torch.zeros(2, 272), torch.zeros(2, 272)]).shape == (2, 259)
    Specialist(large, (change,)).answer(tiny.choose(), tiny.choose().dev)


def test_what_does_not_fit_is_refused(pair: tuple[Base, str], tmp_path: Path) -> None:
    large, small = pair
    task = tiny.choose().sealed()
    with pytest.raises(UserError, match="Name one of its vocabulary with small=NAME"):
        emulated_fine_tuning(Specialist(large), task, Settings(), Run())
    tiny.stored(tmp_path / "words", tiny.llama(7, hidden=16, vocabulary=260), tiny.tokenizer(("new",)))
    with pytest.raises(UserError, match="have different tokenizers"):
        emulated_fine_tuning(Specialist(large), task, Settings(small=str(tmp_path / "words")), Run())
    with pytest.raises(UserError, match="read 256 and 512 tokens at once"):
        emulated_fine_tuning(Specialist(replace(large, max_length=512)), task, Settings(small=small), Run())
    with pytest.raises(BaseMismatch, match="Put it back"):
        EmulatedTuning(small, "float32", 1.0, Delta({}, "another")).voices(large)
    with pytest.raises(UserError, match="scale must be at least 0"):
        find("emulated-fine-tuning").configure({"scale": -1})
