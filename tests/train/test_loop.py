"""The training loop: the same again, the same after a stop, within its budget, and loud when it fails."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.model.architectures import base
from tests.tiny import tiny_causal
from tests.train.helpers import letters, trained
from torch.utils.flop_counter import FlopCounterMode

from metier.errors import Diverged, UserError
from metier.model import Specialist, WeightChange
from metier.train import Budget, Run, Trainable, checkpoint
from metier.train.cost import flops_per_token
from metier.train.items import collate, items
from metier.train.loop import WARMUP, Fit, _Loop


def values(found: Fit) -> dict[str, torch.Tensor]:
    assert isinstance(found.change, WeightChange)
    return {n: found.change.delta[n].dense() for n in found.change.delta}


def equal(one: Fit, two: Fit) -> bool:
    a, b = values(one), values(two)
    return (
        (one.dev, one.best_step, one.steps) == (two.dev, two.best_step, two.steps)
        and all(torch.equal(a[n], b[n]) for n in a)
        and a.keys() == b.keys()
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "t5", "bert"])
def test_a_seed_gives_the_same_change(name: str) -> None:
    one, two, other = (trained(base(name), Run(seed=s, budget=Budget(24)), keep_best=False) for s in (3, 3, 4))
    assert equal(one, two)
    assert not equal(one, other)
    assert any(float(v.abs().max()) > 0 for v in values(one).values())


def test_it_learns() -> None:
    run = Run(budget=Budget(400))
    found = trained(base("llama"), run, lr=3e-3)
    assert run.curve[-1]["dev_loss"] < run.curve[0]["dev_loss"] - 0.5
    assert found.dev > 0.99


# --- going on ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "at"), [("llama", 1), ("llama", 7), ("bert", 5), pytest.param("t5", 3, marks=pytest.mark.slow)])
def test_resumed_is_uninterrupted(name: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)
    straight = Run(seed=1, budget=Budget(48))
    expected = trained(base(name), straight)

    def stop(step: int, *_: Any) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(base(name), Run(seed=1, budget=Budget(48), workdir=tmp_path, tell=stop))
    told: list[int] = []
    again = Run(seed=1, budget=Budget(48), workdir=tmp_path, tell=lambda step, *_: told.append(step))
    assert equal(trained(base(name), again), expected)
    assert told[0] == at
    assert (again.spent, again.curve) == (straight.spent, straight.curve)
    assert not (tmp_path / "checkpoint").exists()


def test_patience_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)
    worse = iter([0.0, -1.0, -2.0, -3.0, -4.0, -5.0])
    monkeypatch.setattr(_Loop, "_dev_value", lambda self: (next(worse), {}))

    def stop(step: int, *_: Any) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(base("llama"), Run(budget=Budget(48), workdir=tmp_path, tell=stop))
    found = trained(base("llama"), Run(budget=Budget(48), workdir=tmp_path))
    assert (found.steps, found.best_step) == (10, 0)  # three looks without gain, counted from the half on


def test_a_checkpoint_of_another_run_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)

    def stop(step: int, *_: Any) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(base("llama"), Run(budget=Budget(48), workdir=tmp_path, tell=stop), lr=1e-2)
    expected = trained(base("llama"), Run(budget=Budget(48)), lr=1e-3)
    assert equal(trained(base("llama"), Run(budget=Budget(48), workdir=tmp_path), lr=1e-3), expected)


# --- budgets -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("budget", "steps"), [("48ex", 12), ("1ex", 1), ("50ex", 12)])
def test_examples(budget: str, steps: int) -> None:
    run = Run(budget=Budget.parse(budget))
    found = trained(base("llama"), run)
    assert (found.steps, run.spent.examples) == (steps, steps * 4)
    assert run.spent.trainable == base("llama").parameters


def test_tokens() -> None:
    run = Run(budget=Budget.parse("800tok"))
    trained(base("llama"), run)
    assert run.spent.tokens == pytest.approx(800, rel=0.1)
    task = letters()
    rows = items(Specialist(base("llama")), task, task.train)
    run = Run(budget=Budget(20))
    trained(base("llama"), run, batch_size=10)
    assert run.spent.tokens == 2 * sum(map(len, rows))


@pytest.mark.slow
def test_seconds(tmp_path: Path) -> None:
    run = Run(budget=Budget.parse("1s"), workdir=tmp_path)
    found = trained(base("llama"), run)
    assert checkpoint.planned(tmp_path) is not None
    assert run.spent.examples == 4 * (found.steps + 3), "three steps are timed and undone"


def test_parts_are_charged_to_one_account() -> None:
    run = Run(budget=Budget(48))
    for name in ("a", "b"):
        trained(base("llama"), run.part(0.5, name))
    assert run.spent.examples == 48
    assert run.curve == []


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "0s", "5 days", "1e", "..s", "1.2.3s", "nan s", "5m 3s", "1e999s"])
def test_budgets_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UserError, match="budget: cannot read"):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("text", "amount", "unit"), [("5m", 300, "seconds"), ("90s", 90, "seconds"), ("1.5h", 5400, "seconds"),
                                 ("2000ex", 2000, "examples"), ("1e6tok", 1e6, "tokens"), ("2 MIN", 120, "seconds")]
)  # fmt: skip
def test_budgets(text: str, amount: float, unit: str) -> None:
    assert Budget.parse(text) == Budget(amount, unit)  # type: ignore[arg-type]
    assert Budget.parse(str(Budget.parse(text))) == Budget.parse(text)


# --- what is kept, what stops ----------------------------------------------------------------------------------------------
def test_the_best_on_dev_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.0, 2.0, 1.0, 1.5, 2.0])
    seen: list[dict[str, torch.Tensor]] = []

    def look(self: _Loop) -> tuple[float, dict[str, float]]:
        seen.append({n: p.detach().clone() for n, p in self.what.parameters.items()})
        return next(scores), {}

    monkeypatch.setattr(_Loop, "_dev_value", look)
    run = Run(budget=Budget(48))
    found = trained(base("llama"), run)
    assert (found.dev, found.best_step, found.steps) == (2.0, 2, 8), "stopped after three looks without gain; an equal one is none"
    at_rest = dict(base("llama").model.named_parameters())
    for name, value in values(found).items():
        assert torch.equal(value, seen[1][name] - at_rest[name])


def test_answers_that_grow_likelier_are_a_gain_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Scores of few examples jump: training stops after three looks without a better score and without a lower loss."""
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", -1.0)
    scores, losses = [0.5, 0.9, 0.4, 0.4, 0.4, 0.4, 0.4], [9.0, 8.0, 6.0, 7.0, 7.0, 7.0, 5.0]
    told = iter(zip(scores, losses, strict=True))

    def look(self: _Loop) -> tuple[float, dict[str, float]]:
        value, loss = next(told)
        return value, {"dev_loss": loss}

    def stop(step: int, *_: Any) -> None:
        if step == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Loop, "_dev_value", look)
    with pytest.raises(KeyboardInterrupt):
        trained(base("llama"), Run(budget=Budget(48), workdir=tmp_path, tell=stop))
    found = trained(base("llama"), Run(budget=Budget(48), workdir=tmp_path))
    assert (found.dev, found.best_step, found.steps) == (0.9, 2, 10), "the lowest loss so far goes on with the checkpoint"


@pytest.mark.parametrize("keep", [True, False])
def test_without_dev_the_last_is_kept(keep: bool) -> None:
    found = trained(base("llama"), Run(budget=Budget(48)), task=letters(dev=0), keep_best=keep)
    assert (found.steps, found.best_step) == (12, 12)


def test_a_loss_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {n: p.clone() for n, p in base("llama").model.named_parameters()}
    with pytest.raises(Diverged, match="the loss became nan at step 0. Lower"):
        trained(
            base("llama"),
            Run(budget=Budget(48)),
            touch=lambda what: (
                setattr(what, "penalty", None) or setattr(what, "loss", lambda b: torch.tensor(math.nan, requires_grad=True))
            ),
        )
    with pytest.raises(Diverged, match="training: the (loss|dev value)"):
        trained(base("llama"), Run(budget=Budget(200)), lr=1e4)
    monkeypatch.setattr(_Loop, "_dev_value", lambda self: (math.nan, {}))
    with pytest.raises(Diverged, match="dev value is not a number at step 0"):
        trained(base("llama"), Run(budget=Budget(48)))
    assert all(torch.equal(before[n], p) for n, p in base("llama").model.named_parameters())
    assert not any(p.requires_grad for p in base("llama").model.parameters())


def test_out_of_memory_halves_the_step_and_nothing_else() -> None:
    told: list[str] = []

    def fail_once(what: Trainable) -> None:
        plain, left = what.loss, [True]

        def loss(batch: Any) -> torch.Tensor:
            if len(batch.labels) and left and what.start.base.model.lm_head.weight.grad is None:
                left.clear()
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return plain(batch)

        what.loss = loss  # type: ignore[method-assign]

    for unit in ("examples", "seconds"):
        one, two = (Run(budget=Budget(32 if unit == "examples" else 0.3, unit), say=told.append) for _ in range(2))  # type: ignore[arg-type]
        hindered = trained(base("llama"), two, touch=fail_once, lr=1e-3)
        assert "out of memory with 4 examples a step: going on with 2 at a time" in told[-1]
        if unit == "examples":
            plain = trained(base("llama"), one, lr=1e-3)
            assert one.spent == two.spent
            for name, value in values(plain).items():
                torch.testing.assert_close(values(hindered)[name], value, rtol=1e-2, atol=2e-4)


def test_halves_have_the_gradients_of_the_whole() -> None:
    got: dict[int, dict[str, torch.Tensor]] = {}
    for micro in (1, 2):

        def touch(what: Trainable, micro: int = micro) -> None:
            rows = items(what.start, what.task, what.task.train)
            with what.live():
                loop = _Loop(what, Run(), rows, 1e-3, 5, 0.0, True, True)
                loop.micro = micro
                loop._forward_backward(rows[:5])
                got[micro] = {n: p.grad.clone() for n, p in what.parameters.items() if p.grad is not None}

        trained(base("llama"), Run(budget=Budget(4)), touch=touch)
    for name in got[1]:
        torch.testing.assert_close(got[1][name], got[2][name], rtol=1e-4, atol=1e-6)


def test_other_errors_are_not_swallowed() -> None:
    def fail(_: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trained(base("llama"), Run(budget=Budget(8)), touch=lambda what: setattr(what, "loss", fail))


@pytest.mark.slow
def test_the_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[list[float]] = []
    plain = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (rates.append([g["lr"] for g in self.param_groups]), plain(self))[1])
    trained(base("bert"), Run(budget=Budget(400)), lr=1e-3)
    first = [r[0] for r in rates]
    warm = round(WARMUP * 100)
    assert first[:warm] == pytest.approx([1e-3 * (i + 1) / warm for i in range(warm)])
    assert first[warm:] == pytest.approx([1e-3 * (100 - i) / (100 - warm) for i in range(warm, len(first))])
    assert rates[3][-1] == pytest.approx(10 * rates[3][0]), "an encoder's head learns ten times as fast"


def test_what_moves_nothing() -> None:
    with pytest.raises(UserError, match="no parameter would move"):
        trained(base("llama"), Run(budget=Budget(8)), touch=lambda what: what.parameters.clear())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_bf16(name: str) -> None:
    options: dict[str, Any] = {"lr": 1e-3, "keep_best": False}
    plain = trained(base(name), Run(budget=Budget(40)), **options)
    half = trained(base(name), Run(budget=Budget(40), precision="bf16"), **options)
    again = trained(base(name), Run(budget=Budget(40)), **options)
    assert equal(plain, again), "precision is the run's own, not what the run before had"
    assert not equal(plain, half)
    for key, value in values(half).items():
        assert torch.isfinite(value).all()
        assert float((value - values(plain)[key]).abs().max()) < 0.05


@pytest.mark.parametrize("moves", ["all", "last", "head", "bias"])
def test_flops(moves: str) -> None:
    made = tiny_causal(hidden=128, max_length=128)
    start, task = Specialist(made), replace(letters(), template="{{ text }} " * 3)
    wanted = {"all": "", "last": "layers.1", "head": "lm_head", "bias": "norm"}[moves]
    named = {n: p for n, p in made.model.named_parameters(remove_duplicate=False) if wanted in n}
    what = Trainable(start, task, named, change=lambda: WeightChange(None))  # type: ignore[arg-type]
    rows = items(start, task, task.train)
    rows = [replace(r, labels=r.ids) for r in rows]  # every token is learnt, as the estimate takes it
    batch = collate(rows, start, pack=True)
    with what.live(), FlopCounterMode(display=False) as counter:
        what.loss(batch).backward()
    padding = batch.labels.numel() / batch.tokens
    if moves != "head":  # a tied output layer that moves alone is untied by `moving`
        assert flops_per_token(what) * batch.tokens * padding == pytest.approx(counter.get_total_flops(), rel=0.25)
