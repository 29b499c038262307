"""Measuring a specialist: the one way from a specialist and a task to records, for every method alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from metier.errors import UserError, out_of_memory
from metier.evaluate.record import Record
from metier.model import Answer, Specialist
from metier.task import Example, Task
from metier.task.score import SCORERS

log = logging.getLogger(__name__)
TAIL = 200
AT_ONCE = 4  # examples, where memory did not suffice for larger batches


def measure(
    specialist: Specialist, task: Task, *, split: str = "test", seed: int = 0, limit: int | None = None, role: str | None = None
) -> list[Record]:
    """Records of the specialist on a split of the task, in the order of its examples.

    `role` is the split's name in the records where it differs ('retain'). Raises UserError on an empty split.
    """
    examples: Sequence[Example] = list(task.split(split))[:limit]
    if not examples:
        raise UserError(f"task {task.name}: its {split} split is empty. Give one, or choose another split.")
    scorer = SCORERS[task.metric]
    records = []
    for example, answer in zip(examples, _answers(specialist, task, examples, seed), strict=True):
        records.append(
            Record(
                example=example.id, digest=example.digest(), task=task.name, split=role or split, output=answer.output, target=example.target,
                score=scorer.score(answer.output, example, task), choices=list(answer.choices) if answer.choices else None,
                logprobs=list(answer.logprobs) if answer.logprobs else None, confidence=answer.confidence, tokens_in=answer.tokens_in,
                tokens_out=answer.tokens_out, seconds=answer.seconds,
                stats=scorer.statistics(answer.output, example) if scorer.statistics else None, prompt_tail=answer.prompt[-TAIL:],
            )
        )  # fmt: skip
    return records


def _answers(specialist: Specialist, task: Task, examples: Sequence[Example], seed: int) -> list[Answer]:
    """The answers; where memory does not suffice, tried once more with few examples at a time, and said aloud."""
    try:
        return specialist.answer(task, examples, seed=seed)
    except (RuntimeError, MemoryError) as error:
        if len(examples) <= AT_ONCE or not out_of_memory(error):
            raise
    log.warning("out of memory while %d examples of %s were answered: going on with %d at a time.", len(examples), task.name, AT_ONCE)
    return [a for i in range(0, len(examples), AT_ONCE) for a in specialist.answer(task, examples[i : i + AT_ONCE], seed=seed)]


def reading_flops(specialist: Specialist, records: Sequence[Record]) -> float:
    """Estimated operations to answer: 2 per parameter that is multiplied, per token read or written."""
    base = specialist.base
    table = base.model.get_input_embeddings().weight.numel()
    return 2.0 * max(base.parameters - table, table) * sum(r.tokens_in + r.tokens_out for r in records)
