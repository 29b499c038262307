"""Guesses: what a model makes of a task's inputs without being told the answers, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from metier.errors import NotApplicable
from metier.task import Example, Task
from metier.train import Trainable
from metier.train.items import IGNORE, Batch, Item, collate, items


def blind(task: Task) -> Task:
    """The task with every answer replaced by the first choice, and without dev: no label can be learnt from it."""
    if task.kind != "choose":
        raise NotApplicable(f"task {task.name}: without labels only tasks of kind 'choose' can be learnt from; this is {task.kind!r}.")
    return replace(task, train=tuple(replace(e, target=task.choices_of(e)[0]) for e in task.train), dev=())


class Guesses:
    """Log-probabilities over the choices of each example of a batch, as `what` stands.

    task is the one that batches are made of; `of` does not read its answers.
    """

    def __init__(self, what: Trainable, task: Task) -> None:
        self.what, self.task = what, task
        self.options: dict[tuple[int, ...], list[Item]] = {}
        self.answers: dict[tuple[int, ...], int] = {}
        if what.start.base.family != "encoder":
            for item, example in zip(items(what.start, task, task.train, reserve=what.soft()), task.train, strict=True):
                self.options[item.ids] = [self._option(example, choice) for choice in task.choices_of(example)]
                self.answers[item.ids] = task.choices_of(example).index(example.answer)

    def of(self, batch: Batch) -> list[Tensor]:
        """One (choices,) tensor an example. The batch must not be packed; to be called inside `what.inside()`."""
        if self.what.start.base.family == "encoder":
            return list(self.what.class_logits(batch).log_softmax(-1))
        options = [self.options[row] for row in _rows(batch)]
        every = [item for listed in options for item in listed]
        scores = -self.what.row_losses(collate(every, self.what.start, pack=False).to(batch.labels.device))
        return [s.log_softmax(-1) for s in scores.split([len(listed) for listed in options])]

    def right(self, batch: Batch) -> Tensor:
        """(examples,): the log-probability of each example's answer among its choices. As `of`, but the answers are read."""
        encoder = self.what.start.base.family == "encoder"
        answers = batch.labels.tolist() if encoder else [self.answers[row] for row in _rows(batch)]
        return torch.stack([guess[i] for guess, i in zip(self.of(batch), answers, strict=True)])

    def _option(self, example: Example, choice: str) -> Item:
        """The example with one of its choices as answer, which is not followed by an end."""
        start = self.what.start
        prompt = start.prompt(self.task, example)
        text, ids = start.base.encode_prompt(prompt)
        answer = start.base.encode_answer(text, choice, separator=prompt.separator)
        if start.base.family == "seq2seq":
            return Item(tuple(start.base.fits(ids, self.what.soft(), example.id)), tuple(answer))
        ids = start.base.fits(ids, len(answer) + self.what.soft(), example.id)
        return Item((*ids, *answer), (*[IGNORE] * len(ids), *answer))


def _rows(batch: Batch) -> list[tuple[int, ...]]:
    """The token ids of every row, without padding."""
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    return [tuple(row[keep].tolist()) for row, keep in zip(ids, mask, strict=True)]


def entropy(logprobs: Tensor) -> Tensor:
    """Of a distribution given by its logarithms, in nats."""
    return -(logprobs.exp() * logprobs).sum()


def pseudo_label(threshold: float) -> Callable[[Tensor], Tensor]:
    """Minus the log-probability of the likeliest choice where it is at least `threshold`, else 0."""

    def loss(logprobs: Tensor) -> Tensor:
        best = logprobs.max()
        return torch.where(best.detach().exp() >= threshold, -best, 0.0 * best)

    return loss


def unlabelled(what: Trainable, task: Task, loss: Callable[[Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    """An objective: the mean of `loss` over a batch's examples (times what the loop divides by)."""
    guesses = Guesses(what, task)

    def objective(batch: Batch) -> Tensor:
        return torch.stack([loss(g) for g in guesses.of(batch)]).mean() * batch.learnt

    return objective
