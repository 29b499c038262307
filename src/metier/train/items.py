"""From examples to training items and batches: what is read, and which tokens are learnt.

A causal item is prompt + answer + end, with labels only on answer and end. Batches are packed: examples share rows, each
seeing only itself (a block-diagonal mask and positions that restart), so no compute goes to padding and the loss is that
of padded rows. An encoder learns a text (a task of kind 'generate') by its masked tokens (Devlin et al. 2018, arXiv:1810.04805,
section 3.1); all that are to be guessed are masked, where BERT leaves a tenth and draws a tenth, and an example's are always the same.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metier.errors import UserError
from metier.model import InputChange, Specialist
from metier.model.ability import window
from metier.model.encoder import encode_text
from metier.model.padding import IGNORE, pad_labels, pad_right
from metier.task import Example, Task

REMEMBERED = 2_000_000  # tokens of items that are kept to be asked for again
_SHOWN = [f.name for f in fields(Task) if f.name not in ("test", "ood")]
MASKED = 0.15  # of a text's tokens that an encoder has to guess


@dataclass(frozen=True)
class Item:
    """ids (n,); labels: per token for causal and for an encoder's masked text, of the answer for seq2seq, one class for an encoder's
    choice; types for encoder pairs."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    extra: Any = None
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.ids)


def items(start: Specialist, task: Task, examples: Sequence[Example], *, reserve: int = 0) -> list[Item]:
    """Training items of examples, as the specialist so far would be shown them; asked for again, they are not made again.

    Raises UserError on an empty loss mask.
    """
    if not examples:
        raise UserError(f"task {task.name}: no training examples. Give a train split.")
    asked = _Asked(tuple(c for c in start.changes if isinstance(c, InputChange)), task, tuple(examples), reserve)
    known: list[tuple[_Asked, list[Item]]] = start.base.remembered.setdefault("items", [])
    made = next((found for before, found in known if before.same(asked)), None)
    if made is None:
        made = _items(start, task, examples, reserve)
        if sum(map(len, made)) <= REMEMBERED:
            known[:] = [*known[-3:], (asked, made)]
    return list(made)


@dataclass(frozen=True)
class _Asked:
    """What items are made of, beside the base: a search makes those of one task again and again."""

    changes: tuple[InputChange, ...]
    task: Task
    examples: tuple[Example, ...]
    reserve: int

    def same(self, other: _Asked) -> bool:
        """Whether the very same objects are asked for; a sealed task is the same as the whole one."""
        mine, others = ((*a.changes, *a.examples, *(getattr(a.task, name) for name in _SHOWN)) for a in (self, other))
        counts = [(len(a.changes), len(a.examples), a.reserve) for a in (self, other)]
        return counts[0] == counts[1] and all(map(operator.is_, mine, others))


def _items(start: Specialist, task: Task, examples: Sequence[Example], reserve: int) -> list[Item]:
    base, made = start.base, []
    for example in examples:
        where = f"task {task.name}, example {example.id}"
        if base.family == "encoder" and task.kind == "generate":
            made.append(_masked(start, task, example, where))
            continue
        if base.family == "encoder":
            if example.answer not in task.choices:
                raise UserError(
                    f"{where}: {example.answer!r} is none of the task's choices, which is what an encoder is trained on. Correct the row."
                )
            row = encode_text(base, start.text(task, example))
            made.append(Item(tuple(row["input_ids"]), (task.choices.index(example.answer),), row))
            continue
        prompt = start.prompt(task, example)
        text, ids = base.encode_prompt(prompt)
        if not base.encode_answer(text, example.answer, separator=prompt.separator):
            raise UserError(f"{where}: the answer is empty, so nothing would be learnt. Remove the row or give its answer.")
        answer = base.encode_answer(text, example.answer, separator=prompt.separator, end=True)
        if base.family == "seq2seq":
            made.append(Item(tuple(base.fits(ids, reserve, where)), tuple(answer)))
            continue
        ids = base.fits(ids, len(answer) + reserve, where)
        made.append(Item((*ids, *answer), (*[IGNORE] * len(ids), *answer)))
    return made


def _masked(start: Specialist, task: Task, example: Example, where: str) -> Item:
    """Prompt and answer as one text, MASKED of its tokens (at least one) hidden; which ones is drawn by the example's id."""
    base, prompt = start.base, start.prompt(task, example)
    if base.tokenizer.mask_token_id is None:
        raise UserError(f"{where}: {base.name} has no token for masked words, so it cannot learn text. Use a task of kind 'choose'.")
    row = encode_text(base, f"{prompt.text()}{prompt.separator}{example.answer}".strip())
    ids = row["input_ids"]
    special = base.tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)
    words = [i for i, fixed in enumerate(special) if not fixed]
    if len(ids) < 2 or not words:
        raise UserError(f"{where}: its text has no tokens, so nothing would be learnt. Remove the row.")
    hidden = set(random.Random(example.id).sample(words, max(1, round(MASKED * len(words)))))
    seen = [base.tokenizer.mask_token_id if i in hidden else t for i, t in enumerate(ids)]
    return Item(tuple(seen), tuple(t if i in hidden else IGNORE for i, t in enumerate(ids)), {**row, "input_ids": seen})


@dataclass(frozen=True)
class Batch:
    """Model inputs and labels. tokens: how many real tokens are read; learnt: how many labels count."""

    inputs: dict[str, Tensor]
    labels: Tensor
    visible: Tensor | None
    tokens: int
    learnt: int

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        moved = {k: v.to(device) for k, v in self.inputs.items()}
        return Batch(moved, self.labels.to(device), None if self.visible is None else self.visible.to(device), self.tokens, self.learnt)


def collate(rows: Sequence[Item], start: Specialist, *, pack: bool) -> Batch:
    """A batch of items for the base's family."""
    base, tokens = start.base, sum(len(r) for r in rows)
    if base.family == "encoder":
        from metier.model.encoder import pad

        inputs = pad([r.extra for r in rows], base)
        if len(rows[0].labels) == 1:
            return Batch(inputs, torch.tensor([r.labels[0] for r in rows]), None, tokens, len(rows))
        labels = pad_labels([r.labels for r in rows])
        return Batch(inputs, labels, None, tokens, int((labels != IGNORE).sum()))
    pad_id = base.tokenizer.pad_token_id or 0
    if base.family == "seq2seq":
        ids, mask = pad_right([r.ids for r in rows], pad_id)
        return Batch(
            {"input_ids": ids, "attention_mask": mask}, pad_labels([r.labels for r in rows]), None, tokens, sum(len(r.labels) for r in rows)
        )
    packs = pack and max(map(len, rows)) <= window(base.model)  # within a sliding window, neighbours in a row are as far as elsewhere
    return _packed(rows, pad_id, tokens) if packs else _padded(rows, pad_id, tokens)


def _padded(rows: Sequence[Item], pad_id: int, tokens: int) -> Batch:
    ids, mask = pad_right([r.ids for r in rows], pad_id)
    labels = pad_labels([r.labels for r in rows])
    labels[:, 0] = IGNORE  # nothing stands before it
    return Batch({"input_ids": ids, "attention_mask": mask}, labels, None, tokens, int((labels != IGNORE).sum()))


def _packed(rows: Sequence[Item], pad_id: int, tokens: int) -> Batch:
    width = max(map(len, rows))
    bins: list[list[Item]] = []
    room: list[int] = []
    for item in sorted(rows, key=len, reverse=True):  # first fit, longest first
        fit = next((b for b, free in enumerate(room) if free >= len(item)), None)
        if fit is None:
            bins.append([])
            room.append(width)
            fit = len(bins) - 1
        bins[fit].append(item)
        room[fit] -= len(item)
    ids, labels, steps, owner = (np.full((len(bins), width), value, np.int64) for value in (pad_id, IGNORE, 0, -1))
    for b, members in enumerate(bins):
        at = 0
        for k, item in enumerate(members):
            end = at + len(item)
            ids[b, at:end], labels[b, at:end] = item.ids, item.labels
            labels[b, at] = IGNORE  # an item's first token is not predicted by its neighbour's last
            steps[b, at:end], owner[b, at:end] = np.arange(len(item)), k
            at = end
    visible = (owner[:, :, None] == owner[:, None, :]) & np.tri(width, dtype=bool)
    inputs = {"input_ids": torch.from_numpy(ids), "position_ids": torch.from_numpy(steps)}
    return Batch(inputs, torch.from_numpy(labels), torch.from_numpy(visible), tokens, int((labels != IGNORE).sum()))
