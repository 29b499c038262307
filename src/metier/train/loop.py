"""The one training loop: every method that trains uses it, so order, masking, stopping and accounting are the same.

AdamW, linear warm-up then linear decay to zero, gradient clipping at 1. The budget fixes how many examples are seen; the
best state on dev is what is kept, and training ends where three looks in a row show neither a better score nor likelier right
answers. Built on accelerate for devices, precision and processes.
"""

from __future__ import annotations

import functools
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from metier.errors import Diverged, UserError
from metier.model import Change
from metier.task.score import SCORERS
from metier.train import checkpoint
from metier.train.cost import flops_per_token
from metier.train.items import Item, collate, items
from metier.train.run import Run
from metier.train.trainable import Trainable

WARMUP = 0.06
LOOKS = 6
PATIENCE = 3
DEV_CHOOSE, DEV_GENERATE = 200, 64
CPU_ROWS = 8


@dataclass(frozen=True)
class Fit:
    """What training gave: the change, the best dev value seen (higher is better), at which step, of how many."""

    change: Change
    dev: float
    best_step: int
    steps: int


def fit(
    what: Trainable,
    run: Run,
    *,
    lr: float,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    pack: bool | None = None,
    keep_best: bool = True,
) -> Fit:
    """Train `what` in place within the run's budget, leave its parameters at their best on dev, and copy out the change.

    To be called inside `what.start.attached()`.

    Raises `Diverged` when the loss is not a number or explodes, UserError when nothing would be trained.
    """
    named = what.parameters
    if not named or not sum(p.numel() for p in named.values()):
        raise UserError("training: no parameter would move. Check which modules the method chose on this base.")
    rows = items(what.start, what.task, what.task.train, reserve=what.soft())
    run.spent.trainable = sum(p.numel() for p in named.values())
    with what.live():
        return _Loop(
            what, run, rows, lr, min(batch_size, len(rows)), weight_decay, what.can_pack() if pack is None else pack, keep_best
        ).go()


class _Loop:
    def __init__(
        self, what: Trainable, run: Run, rows: list[Item], lr: float, size: int, decay: float, pack: bool, keep_best: bool
    ) -> None:
        self.what, self.run, self.rows, self.size, self.pack, self.keep_best = what, run, rows, size, pack, keep_best
        if AcceleratorState._shared_state and AcceleratorState().mixed_precision != _mixed(run.precision):
            AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=_mixed(run.precision), cpu=what.start.base.device.type == "cpu")
        self.tops = {n: lr * what.lr_factor(n) for n in what.parameters}
        groups = [
            {"params": [p for n, p in what.parameters.items() if self.tops[n] == top], "lr": top, "top": top}
            for top in dict.fromkeys(self.tops.values())
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=decay)
        self.rng = random.Random(run.seed)
        self.order: list[int] = []
        self.micro = run.accumulate
        self.step, self.bad, self.best, self.least = 0, 0, checkpoint.Best(-math.inf, -1, []), math.inf
        self.first_loss: float | None = None
        self.smooth = 0.0
        self.cost = flops_per_token(what)

    def go(self) -> Fit:
        planned = self._plan()
        torch.manual_seed(self.run.seed)
        resumed = checkpoint.load(self.run.workdir, self) if self.run.workdir else False
        every = max(1, planned // LOOKS)
        last_saved = time.monotonic()
        if not resumed:
            self._look(planned)
        while self.step < planned:
            loss = self._one(planned)
            self.step += 1
            if self.run.tell:
                self.run.tell(self.step, planned, loss)
            if self.step % every == 0 or self.step == planned:
                self.bad = 0 if self._look(planned, loss) or self._slow_start(planned) else self.bad + 1
                if self.bad >= PATIENCE and self.keep_best:
                    break
            if self.run.workdir and time.monotonic() - last_saved > checkpoint.EVERY_SECONDS:
                checkpoint.save(self.run.workdir, self)
                last_saved = time.monotonic()
        if self.keep_best and self.best.values:
            with torch.no_grad():
                for p, value in zip(self.what.parameters.values(), self.best.values, strict=True):
                    p.copy_(value)
        checkpoint.clear(self.run.workdir)
        return Fit(self.what.change(), self.best.dev, self.best.step, self.step)

    @functools.cached_property
    def key(self) -> list[Any]:
        """What a checkpoint must agree on; asked for only where one is written or found."""
        return checkpoint.key(self)

    def _slow_start(self, planned: int) -> bool:
        """Nothing better than the start yet, in the first half: some methods need that long before dev moves."""
        return self.best.step == 0 and self.step < planned / 2

    def _plan(self) -> int:
        """How many steps the budget pays for. Seconds are turned into steps by timing three steps that are then undone."""
        budget = self.run.budget
        if budget.unit == "examples":
            return max(1, round(budget.amount / self.size))
        mean = sum(map(len, self.rows)) / len(self.rows)
        if budget.unit == "tokens":
            return max(1, round(budget.amount / (self.size * mean)))
        stored = self.run.workdir and checkpoint.planned(self.run.workdir)
        if stored:
            return stored
        before = [p.detach().clone() for p in self.what.parameters.values()]
        started = time.perf_counter()
        for _ in range(3):
            self._gradients(self._next())
        each = (time.perf_counter() - started) / 3
        for p, value in zip(self.what.parameters.values(), before, strict=True):
            p.grad = None
            p.data.copy_(value)
        self.rng, self.order = random.Random(self.run.seed), []
        steps = max(1, int(0.8 * budget.amount / each))  # a fifth is left for looks at dev
        if self.run.workdir:
            checkpoint.write_plan(self.run.workdir, steps)
        return steps

    def _next(self) -> list[Item]:
        while len(self.order) < self.size:
            epoch = list(range(len(self.rows)))
            self.rng.shuffle(epoch)
            self.order += epoch
        taken, self.order = self.order[: self.size], self.order[self.size :]
        return [self.rows[i] for i in taken]

    def _one(self, planned: int) -> float:
        warm = max(1, round(WARMUP * planned))
        at = (self.step + 1) / warm if self.step < warm else (planned - self.step) / max(1, planned - warm)
        for group in self.optimizer.param_groups:
            group["lr"] = group["top"] * min(1.0, at)
        loss = self._gradients(self._next())
        self._guard(loss)
        self.accelerator.clip_grad_norm_(list(self.what.parameters.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.what.after_step:
            self.what.after_step()
        return loss

    def _gradients(self, rows: list[Item]) -> float:
        """Loss and gradients of a step; where memory does not suffice, in two halves from then on."""
        try:
            return self._forward_backward(rows)
        except RuntimeError as error:
            if self.micro > self.run.accumulate or len(rows) == 1 or not _out_of_memory(error):
                raise
        self.micro = 2 * self.run.accumulate  # outside the handler, which would hold on to the memory of what failed
        if self.run.say:
            self.run.say(f"out of memory with {len(rows)} examples a step: going on with {-(-len(rows) // 2)} at a time, same result")
        self.optimizer.zero_grad()
        return self._forward_backward(rows)

    def _forward_backward(self, rows: list[Item]) -> float:
        part = -(-len(rows) // self.micro)
        if not self.pack and self.what.start.base.device.type == "cpu":  # rows of like length together: less padding, the same sum
            rows, part = sorted(rows, key=len), min(part, CPU_ROWS)
        batches = [collate(rows[i : i + part], self.what.start, pack=self.pack) for i in range(0, len(rows), part)]
        learnt, total = sum(b.learnt for b in batches), 0.0
        if learnt == 0:
            raise UserError("training: every label of a batch is masked, so nothing would be learnt.")
        for batch in batches:
            with self.accelerator.autocast():
                loss: Tensor = self.what.loss(batch.to(self.what.start.base.device)) / learnt
            total += float(loss.detach())
            if self.what.penalty is not None and batch is batches[-1]:
                loss = loss + self.what.penalty()
            self.accelerator.backward(loss)
        tokens = sum(b.tokens for b in batches)
        self.run.spent.tokens += tokens
        self.run.spent.examples += len(rows)
        self.run.spent.flops += tokens * self.cost
        return total

    def _guard(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"training: the loss became {loss} at step {self.step}. Lower the learning rate.")
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.smooth = loss if self.step == 0 else 0.9 * self.smooth + 0.1 * loss
        if self.smooth > 4 * self.first_loss + 4:
            raise Diverged(
                f"training: the loss grew from {self.first_loss:.2f} to {self.smooth:.2f} by step {self.step}. Lower the learning rate."
            )

    def _look(self, planned: int, loss: float | None = None) -> bool:
        """Score dev; keep the state if it is the best so far. Returns whether it is, or the likeliest: a score of few examples alone
        is too noisy to stop by."""
        value, seen = self._asked() if self.what.task.dev else (float(self.step), {})  # without dev the last state counts as the best
        self.run.curve.append({"step": self.step, "steps": planned, "loss": loss, "dev_score": None, "dev_loss": None, **seen})
        if math.isnan(value):
            raise Diverged(f"training: the dev value is not a number at step {self.step}. Lower the learning rate.")
        lost = seen.get("dev_loss", math.inf)
        likelier, self.least = lost < self.least, min(lost, self.least)
        if value <= self.best.dev:
            return likelier
        copies = [p.detach().clone() for p in self.what.parameters.values()] if self.keep_best else []
        self.best = checkpoint.Best(value, self.step, copies)
        return True

    @torch.no_grad()
    def _asked(self) -> tuple[float, dict[str, float]]:
        """The dev value, without dropout."""
        busy = [m for m in self._modules if m.training]
        try:
            for module in busy:
                vars(module)["training"] = False  # a plain flag; the module's own setter looks it up among its parameters first
            return self._dev_value()
        finally:
            for module in busy:
                vars(module)["training"] = True

    @functools.cached_property
    def _modules(self) -> list[nn.Module]:
        return list(self.what.start.base.model.modules())

    def _dev_value(self) -> tuple[float, dict[str, float]]:
        """(what is maximised, what the curve shows): the score with likelihood breaking ties, or minus the loss of the answers."""
        task = self.what.task
        if task.kind == "choose":
            dev = list(task.dev)[:DEV_CHOOSE]
            answers = self.what.now().answer(task, dev)
            right = sum(SCORERS[task.metric].score(a.output, e, task) for a, e in zip(answers, dev, strict=True)) / len(dev)
            sure = sum(a.logprobs[a.choices.index(e.answer)] for a, e in zip(answers, dev, strict=True) if a.logprobs and a.choices) / len(
                dev
            )
            return right + 1e-3 * max(sure, -100.0), {"dev_score": right, "dev_loss": -sure}
        loss = self._dev_loss(self._dev_rows)
        return -loss, {"dev_loss": loss}

    @functools.cached_property
    def _dev_rows(self) -> list[Item]:
        return items(self.what.start, self.what.task, list(self.what.task.dev)[:DEV_GENERATE], reserve=self.what.soft())

    def _dev_loss(self, rows: Sequence[Item]) -> float:
        total, learnt = 0.0, 0
        for i in range(0, len(rows), self.size):
            batch = collate(rows[i : i + self.size], self.what.start, pack=self.pack).to(self.what.start.base.device)
            total, learnt = total + float(self.what.loss(batch)), learnt + batch.learnt
        return total / max(1, learnt)


def _mixed(precision: str) -> str:
    return "bf16" if precision == "bf16" else "no"


def _out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
