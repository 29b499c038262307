"""Door: what is checked of a study's tasks before anything starts: names, and whether the base can read them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from metier.errors import UserError
from metier.model import Base, Specialist
from metier.task import Example, Task
from metier.task.task import SPLITS

LEARNT = ("train", "dev")
SPARE = 16  # tokens that special tokens and the ends of texts may add to their bytes
log = logging.getLogger(__name__)


def check_names(tasks: Sequence[Task], retain: Sequence[Task]) -> None:
    """Every task has a name of its own that can be a file's name."""
    for group in (tasks, retain):
        names = [t.name for t in group]
        if doubled := sorted({n for n in names if names.count(n) > 1}):
            raise UserError(f"two tasks are named {doubled[0]!r}. Give each a name of its own (name: in a task file).")
    sources = {t.name: t.source for t in tasks}
    for task in retain:
        if sources.get(task.name, task.source) != task.source:
            raise UserError(f"a task and a retained one are both named {task.name!r}. Give each a name of its own (name: in a task file).")
    for task in (*tasks, *retain):
        if not task.name.strip() or task.name.startswith(".") or set(task.name) & set("/\\\0"):
            raise UserError(f"task {task.name!r}: the name cannot be a file's name. Give it another (name: in a task file).")


def fitting(base: Base, task: Task) -> Task:
    """The task, every prompt of which, with its answer, fits in what the base reads. Raises UserError naming the first that does not.

    With `truncate`, what will be cut is said instead; examples of train and dev whose answer alone takes more than half of what the base
    reads are left out, since cutting the prompt would leave too little of it.
    """
    long = too_long(base, task)
    if not long:
        return task
    if not base.truncate:
        example, (read, room) = next(iter(long.items()))
        what = f"prompt of {read} tokens and answer of up to {room} exceed" if room else f"its {read} tokens exceed"
        more = f"; so do {len(long) - 1} more" if len(long) > 1 else ""
        raise UserError(
            f"task {task.name}, example {example}: {what} the {base.max_length} that {base.name} reads{more}. "
            "Shorten the texts or the template, take another base, or cut them with --truncate (truncate=True)."
        )
    if task.kind == "generate" and task.max_new_tokens >= base.max_length:
        raise UserError(
            f"task {task.name}: max_new_tokens is {task.max_new_tokens}, which leaves no room for a prompt in the {base.max_length} tokens "
            f"that {base.name} reads. Lower it in the task file, or take another base."
        )
    out = {e.id for s in LEARNT for e in task.split(s) if e.id in long and _answer_tokens(base, task, e) > base.max_length // 2}
    reads = f"the {base.max_length} tokens that {base.name} reads"
    if cut := len(long) - len(out):
        task = _warned(task, f"{cut} of its texts are longer than {reads}; they are cut.")
    if not out:
        return task
    task = _warned(task, f"{len(out)} examples of train and dev are left out: their answers take more than half of {reads}.")
    kept = {s: tuple(e for e in task.split(s) if e.id not in out) for s in LEARNT}
    return replace(task, train=kept["train"], dev=kept["dev"])


def seen(base: Base, task: Task) -> Task:
    """The task; it is said where its examples hold pictures or sounds, since a base of words reads the prompt only."""
    first = next(iter(task.test)).fields if len(task.test) else {}
    fields = sorted(name for name, value in first.items() if isinstance(value, np.ndarray))
    if not fields:
        return task
    return _warned(task, f"{base.name} reads text; of the field {', '.join(fields)} it sees nothing but what the prompt says.")


def _warned(task: Task, text: str) -> Task:
    """Say it, and keep it with the task for the study's plan."""
    log.warning("task %s: %s", task.name, text)
    return replace(task, options={**task.options, "warnings": (*task.options.get("warnings", ()), text)})


def too_long(base: Base, task: Task) -> dict[str, tuple[int, int]]:
    """{example: (tokens of its prompt, of its longest answer)} of those that the base cannot read at once.

    Only prompts with as many bytes as the base reads tokens are encoded.
    """
    if base.family == "encoder" and task.kind == "generate":
        return {}  # not tried
    count = _encoder_tokens if base.family == "encoder" else _prompt_tokens
    found = {}
    for split in SPLITS:
        for example in task.split(split):
            read, room = count(base, task, example, split in LEARNT)
            if read + room > base.max_length:
                found[example.id] = (read, room)
    return found


def _encoder_tokens(base: Base, task: Task, example: Example, learnt: bool) -> tuple[int, int]:
    text = Specialist(base).text(task, example)
    parts = (text,) if isinstance(text, str) else text
    if sum(len(t.encode()) for t in parts) + SPARE <= base.max_length:
        return 0, 0
    return len(base.tokenizer(*parts, verbose=False)["input_ids"]), 0


def _prompt_tokens(base: Base, task: Task, example: Example, learnt: bool) -> tuple[int, int]:
    prompt = task.prompt(example)
    answers = task.choices_of(example) if task.kind == "choose" else (example.answer,) if learnt else ()
    written = task.max_new_tokens if task.kind == "generate" else 0
    most = max(written, max((len(a.encode()) for a in answers), default=0) + SPARE)
    if not base.chat and len(prompt.text().encode()) + SPARE + most <= base.max_length:
        return 0, 0
    shown, ids = base.encode_prompt(prompt)
    room = max((len(base.encode_answer(shown, a, separator=prompt.separator, end=learnt)) for a in answers), default=0)
    return len(ids), max(room, written)


def _answer_tokens(base: Base, task: Task, example: Example) -> int:
    """Of the answer that is to be written; choices are not left out, whatever their length."""
    prompt = task.prompt(example)
    return len(base.encode_answer(prompt.text(), example.answer, separator=prompt.separator, end=True)) if task.kind == "generate" else 0
