"""Calibration: closed forms, uniform without content, and a temperature that no grid betters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.tune import tiny

from metier.decode.calibrate import CONTENT_FREE, Calibration, Settings, calibrate, fit_temperature
from metier.errors import UserError
from metier.model import InputChange, Specialist
from metier.model import change as changes
from metier.task import Example
from metier.train import Run

MODELS = {"causal": tiny.llama, "seq2seq": tiny.t5, "encoder": tiny.bert}


def blank(text: str) -> Example:
    return Example(f"blank {text}", {"text": text}, "low")


@pytest.mark.parametrize("family", MODELS)
def test_contextual_divides_by_what_is_said_without_content(family: str) -> None:
    base, task = tiny.base(MODELS[family](), family), tiny.choose().sealed()
    start = Specialist(base)
    change = calibrate(start, task, Settings(kind="contextual"), Run())
    free = torch.stack([s.exp() for s in start.choose(task, [blank(t) for t in CONTENT_FREE])]).mean(0)
    torch.testing.assert_close(change.prior.exp(), free)
    assert change.temperature == 1.0
    raw, seen = start.choose(task, task.dev), start.then(change).choose(task, task.dev)
    for p, q in zip(raw, seen, strict=True):
        torch.testing.assert_close(q.exp(), p.exp() / free / (p.exp() / free).sum())


def test_without_content_every_choice_is_as_likely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metier.decode.calibrate.CONTENT_FREE", ("N/A",))
    start, task = Specialist(tiny.base()), tiny.choose().sealed()
    assert (start.choose(task, [blank("N/A")])[0].exp() - 0.5).abs().max() > 0.01
    change = calibrate(start, task, Settings(kind="contextual"), Run())
    torch.testing.assert_close(start.then(change).choose(task, [blank("N/A")])[0].exp(), torch.full((2,), 0.5))


def test_the_temperature_is_the_best_on_dev() -> None:
    generator = torch.Generator().manual_seed(0)
    for sharp in (0.2, 1.0, 5.0):
        scores = [(sharp * torch.randn(4, generator=generator)).log_softmax(-1) for _ in range(80)]
        right = [int(torch.multinomial((s / sharp).softmax(-1), 1, generator=generator)) for s in scores]
        found = fit_temperature(scores, right)

        def loss(t: float, scores: list[torch.Tensor] = scores, right: list[int] = right) -> float:
            return -float((torch.stack(scores).double() / t).log_softmax(-1)[range(len(right)), right].sum())

        grid = torch.logspace(-1.3, 1.3, 400).tolist()
        assert loss(found) <= min(map(loss, grid)) + 1e-9
        assert found == pytest.approx(min(grid, key=loss), rel=0.02)


def test_the_temperature_stays_in_its_range() -> None:
    leaning, sure = [torch.tensor([0.6, 0.4]).log()] * 4, [torch.tensor([0.9, 0.1]).log()] * 4
    assert fit_temperature(leaning, [0] * 4) == pytest.approx(0.05)
    assert fit_temperature(leaning, [1] * 4) == pytest.approx(20.0)
    assert fit_temperature(sure, [0, 0, 0, 1]) == pytest.approx(2.0)  # 3:1 from 9:1 is half the log-odds
    mixed = [torch.tensor([0.9, 0.1]).log(), torch.tensor([0.8, 0.1, 0.1]).log()]
    assert 0.05 < fit_temperature(mixed * 2, [0, 0, 1, 2]) <= 20


@pytest.mark.parametrize("family", MODELS)
def test_both_fit_the_temperature_after_the_context(family: str) -> None:
    base, task = tiny.base(MODELS[family](), family), tiny.choose().sealed()
    start = Specialist(base)
    first, both, only = (calibrate(start, task, Settings(kind=k), Run()) for k in ("contextual", "both", "temperature"))
    assert torch.equal(first.prior, both.prior)
    assert only.prior is None
    right = [task.choices.index(e.answer) for e in task.dev]
    assert both.temperature == fit_temperature(start.then(first).choose(task, task.dev), right)
    assert only.temperature == fit_temperature(start.choose(task, task.dev), right)
    same = [a.output for a in start.answer(task, task.dev)]
    assert [a.output for a in start.then(only).answer(task, task.dev)] == same


def test_changes_of_the_input_stand_before_the_blank() -> None:
    class Shout(InputChange):
        def prompt(self, prompt, example, task):
            seen.append(prompt.query)
            return prompt.with_(instruction="Answer!")

        state = from_state = None  # type: ignore[assignment]

    seen: list[str] = []
    task, base = tiny.choose().sealed(), tiny.base()
    plain = calibrate(Specialist(base), task, Settings(kind="contextual"), Run())
    shouted = calibrate(Specialist(base).then(Shout()), task, Settings(kind="contextual"), Run())
    assert {"N/A:", "[MASK]:", ":"} == set(seen)
    assert not torch.equal(plain.prior, shouted.prior)


def test_an_empty_prompt_and_a_hopeless_choice_are_no_trouble() -> None:
    start, task = Specialist(tiny.base()), replace(tiny.choose().sealed(), template="{{ text }}", choices=("low", "high" * 60))
    task = replace(task, train=[replace(e, target="low") for e in task.train], dev=[replace(e, target="low") for e in task.dev])
    change = calibrate(start, task, Settings(), Run())
    assert change.prior.isfinite().all()
    assert all(s.isfinite().all() for s in start.then(change).choose(task, task.dev))


def test_chats_keep_their_roles_and_numbers_stay() -> None:
    rows = [Example("a", {"turns": [{"role": "user", "content": "hello"}], "n": 3}, "low", None)] * 2
    task = replace(
        tiny.choose().sealed(), template="{{ turns[0].role }} {{ turns[0].content }} {{ n + 1 }}", inputs=(), train=rows, dev=rows
    )
    start = Specialist(tiny.base())
    change = calibrate(start, task, Settings(kind="contextual"), Run())
    free = [Example(t, {"turns": [{"role": "user", "content": t}], "n": 3}, "low") for t in CONTENT_FREE]
    torch.testing.assert_close(change.prior.exp(), torch.stack([s.exp() for s in start.choose(task, free)]).mean(0))


def test_other_choices_and_other_orders() -> None:
    task = tiny.choose()
    change = Calibration(2.0, ("low", "high"), torch.tensor([0.25, 0.75]).log())
    p = torch.tensor([0.5, 0.5]).log()
    torch.testing.assert_close(change.rescore(p, task), (p - torch.tensor([0.25, 0.75]).log()) / 2)
    torch.testing.assert_close(change.rescore(p, replace(task, choices=("high", "low"))), (p - torch.tensor([0.75, 0.25]).log()) / 2)
    torch.testing.assert_close(change.rescore(p, replace(task, choices=("yes", "no"))), p / 2)
    with pytest.raises(UserError, match="has 2 choices, an example of it 3"):
        change.rescore(torch.zeros(3), task)


def test_what_cannot_be_calibrated_is_refused() -> None:
    start, task = Specialist(tiny.base()), tiny.choose().sealed()
    own = replace(
        task,
        choices=(),
        train=[replace(e, choices=("low", "high")) for e in task.train],
        dev=[replace(e, choices=("low", "high")) for e in task.dev],
    )
    with pytest.raises(UserError, match="no choices that all its examples share"):
        calibrate(start, own, Settings(kind="both"), Run())
    assert 0.05 <= calibrate(start, own, Settings(kind="temperature"), Run()).temperature <= 20
    with pytest.raises(UserError, match="no dev split"):
        calibrate(start, replace(task, dev=()), Settings(kind="both"), Run())
    numbers = [Example("a", {"n": 3}, "low")]
    with pytest.raises(UserError, match="no text field"):
        calibrate(start, replace(task, template="{{ n }}", train=numbers, dev=numbers), Settings(kind="contextual"), Run())


@pytest.mark.parametrize("kind", ["contextual", "temperature", "both"])
def test_it_is_saved(kind: str, tmp_path: Path) -> None:
    start, task = Specialist(tiny.base()), tiny.choose().sealed()
    change = calibrate(start, task, Settings(kind=kind), Run())
    changes.save(change, tmp_path / "c", base=start.base.fingerprint)
    loaded = changes.load(tmp_path / "c", base=start.base.fingerprint)
    own, again = (start.then(c).choose(task, task.dev) for c in (change, loaded))
    assert all(torch.equal(a, b) for a, b in zip(own, again, strict=True))
