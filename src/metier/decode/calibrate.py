"""Calibrate: divide out what a model prefers before it has read anything, and fit how sure it is.

Paper:       contextual: Zhao et al. 2021, arXiv:2102.09690, section 5; temperature: Guo et al. 2017, arXiv:1706.04599, section 4.2.
Formula:     log q(c | x) = (log p(c | x) - log p_cf(c)) / T + const; p_cf = mean of p(c | x') over x' in {'N/A', '[MASK]', ''};
             T = argmin over dev of the mean of -log q(right c | x).
Shapes:      p_cf (choices,).
Units:       T, factor, between 0.05 and 20; log-probabilities in nats.
Randomness:  none.
Cost:        three prompts (contextual), one pass over dev (temperature); nothing at inference.
Deviations:  q is p / p_cf normalised, where the paper takes a softmax of it (same choice, but a distribution that can be judged);
             on a task of other choices (a retained one) p_cf does not apply and only T does.
Errors:      UserError where choices differ from example to example or no field is a text (contextual), or dev is empty (temperature).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from metier import check
from metier.errors import UserError
from metier.method import About
from metier.model import OutputChange, Specialist
from metier.task import Example, Task
from metier.train import Run

ABOUT = About(place="out", kinds=("choose",), search={"kind": ("temperature", "contextual", "both")})

CONTENT_FREE = ("N/A", "[MASK]", "")
LOW, HIGH = 0.05, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of calibration."""

    kind: Literal["contextual", "temperature", "both"] = "both"
    """What is corrected: the preference among choices (contextual), how sure the model is (temperature), or both in this order."""

    def __post_init__(self) -> None:
        check.one_of("kind", self.kind, ("contextual", "temperature", "both"))


@dataclass(frozen=True)
class Calibration(OutputChange):
    """(log p - prior) / temperature. prior: log p_cf over `choices`, or None."""

    place: ClassVar[str] = "out"
    temperature: float = 1.0
    choices: tuple[str, ...] = ()
    prior: Tensor | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def rescore(self, logprobs: Tensor, task: Task) -> Tensor:
        """See `OutputChange.rescore`. Raises UserError where an example has choices of its own and the task does not."""
        if self.prior is not None and sorted(task.choices) == sorted(self.choices):
            if len(logprobs) != len(self.choices):
                where = f"calibrate: task {task.name} has {len(self.choices)} choices, an example of it {len(logprobs)}"
                raise UserError(f"{where}. Say kind='temperature'.")
            logprobs = logprobs - self.prior[[self.choices.index(c) for c in task.choices]].to(logprobs)
        return logprobs / self.temperature

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        return {"temperature": self.temperature, "choices": list(self.choices)}, {} if self.prior is None else {"prior": self.prior}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        return cls(float(facts["temperature"]), tuple(facts["choices"]), tensors.get("prior"))


def calibrate(start: Specialist, task: Task, settings: Settings, run: Run) -> Calibration:
    """Measure the preference without content and fit the temperature on dev."""
    change = Calibration()
    if settings.kind != "temperature":
        change = Calibration(1.0, task.choices, _prior(start, task))
    if settings.kind != "contextual":
        if not task.dev:
            raise UserError(f"calibrate: task {task.name} has no dev split to fit a temperature on. Say kind='contextual', or give one.")
        scores = start.then(change).choose(task, task.dev)
        right = [task.choices_of(e).index(e.answer) for e in task.dev]
        change = Calibration(fit_temperature(scores, right), change.choices, change.prior)
    return change


def _prior(start: Specialist, task: Task) -> Tensor:
    """log p_cf: (choices,)."""
    rows = [*task.dev, *task.train]
    if not rows or not task.choices or any(e.choices is not None for e in rows):
        raise UserError(f"calibrate: task {task.name} has no choices that all its examples share. Say kind='temperature'.")
    blanks = [{k: _blank(v, text) for k, v in rows[0].fields.items()} for text in CONTENT_FREE]
    empty = [Example(f"content-free-{i}", fields, task.choices[0]) for i, fields in enumerate(blanks)]
    if empty[0].fields == rows[0].fields:
        raise UserError(f"calibrate: task {task.name} has no text field that could be emptied. Say kind='temperature'.")
    return (torch.stack(start.choose(task, empty)).double().logsumexp(0) - math.log(len(empty))).float()


def _blank(value: Any, text: str) -> Any:
    """A field without its content: every text in it replaced, except who speaks in a chat."""
    if isinstance(value, str):
        return text
    if isinstance(value, list | tuple):
        return [_blank(v, text) for v in value]
    if isinstance(value, Mapping):
        return {k: v if k == "role" else _blank(v, text) for k, v in value.items()}
    return value


def fit_temperature(scores: Sequence[Tensor], right: Sequence[int]) -> float:
    """The T in [0.05, 20] that minimises the mean of -log softmax(scores / T)[right].

    That mean is convex in 1 / T; its derivative, mean(E_q[s] - s[right]), is brought to zero by bisection.
    """
    table = torch.nn.utils.rnn.pad_sequence([s.double() for s in scores], batch_first=True, padding_value=-1e9)
    gold = table.gather(1, torch.tensor(right).unsqueeze(1)).mean()
    low, high = 1 / HIGH, 1 / LOW
    for _ in range(60):
        middle = (low + high) / 2
        slope = ((middle * table).softmax(1) * table).sum(1).mean() - gold
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 2 / (low + high)
