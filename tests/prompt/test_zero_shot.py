"""Zero-shot: nothing changes without an instruction; with one, it stands in place of the task's."""

from __future__ import annotations

import pytest
from tests.tiny import tiny_causal, tiny_encoder, tiny_task

from metier.errors import UserError
from metier.model import Specialist
from metier.prompt.zero_shot import Settings, zero_shot
from metier.train import Run


def test_without_an_instruction_answers_are_the_base_s() -> None:
    for base, kind in ((tiny_causal(), "choose"), (tiny_causal(), "generate"), (tiny_encoder(), "choose"), (tiny_encoder(), "rank")):
        task = tiny_task(kind)
        start = Specialist(base)
        changed = start.then(zero_shot(start, task.sealed(), Settings(), Run()))
        ours, plain = changed.answer(task, task.dev), start.answer(task, task.dev)
        assert [(a.output, a.logprobs, a.prompt) for a in ours] == [(a.output, a.logprobs, a.prompt) for a in plain]


def test_an_instruction_takes_the_place_of_the_task_s() -> None:
    task = tiny_task("choose")
    start = Specialist(tiny_causal())
    changed = start.then(zero_shot(start, task.sealed(), Settings(instruction="Warm or cold?"), Run()))
    text = changed.prompt(task, task.dev[0]).text()
    assert text.startswith("Warm or cold?\n\n")
    assert task.instruction not in text
    assert changed.choose(task, task.dev)[0].tolist() != start.choose(task, task.dev)[0].tolist()


def test_an_instruction_that_nobody_reads_is_refused() -> None:
    given = Settings(instruction="Find it.")
    with pytest.raises(UserError, match="an encoder reads only the query"):
        zero_shot(Specialist(tiny_encoder()), tiny_task("choose").sealed(), given, Run())
    with pytest.raises(UserError, match="ranking reads only the query"):
        zero_shot(Specialist(tiny_causal()), tiny_task("rank").sealed(), given, Run())
