"""Sparse changes compose: LT-SFT of a language and of a task, tuned, saved, opened, added and put on an encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tests.merge.learning import colours
from tests.tiny import tiny_encoder

from metier.delta import New, Sparse
from metier.merge._experts import made_of, opened_expert
from metier.model import Specialist
from metier.task import Task
from metier.train import Budget, Run
from metier.tune.where.lt_sft import Settings, lt_sft


def language() -> Task:
    """The stand-in for a language: another task with other labels, so another head."""
    task = colours()
    names = {"warm": "rojo", "cold": "azul"}
    return replace(task, choices=("rojo", "azul"), train=tuple(replace(e, target=names[e.target]) for e in task.train), dev=())


def test_language_plus_task_end_to_end(tmp_path: Path) -> None:
    base, task = tiny_encoder(), replace(colours(), dev=())
    places = []
    for name, learnt in (("language", language()), ("task", task)):
        change = lt_sft(Specialist(base), learnt, Settings(density=0.05, lr=1e-2, batch_size=12), Run(budget=Budget(72)))
        places.append(tmp_path / name)
        Specialist(base, (change,)).save(places[-1])
    experts = [opened_expert(p, base) for p in places]
    bodies = [e.delta.only([n for n, v in e.delta.entries.items() if not isinstance(v, New)]) for e in experts]
    change = made_of(bodies[0] + bodies[1], Specialist(base), task, experts)
    assert change.labels == task.choices
    assert all(isinstance(e, Sparse | New) for e in change.delta.entries.values())
    weights = {n: p.detach().clone() for n, p in base.model.named_parameters()}
    with change.attach(base.model):
        for name in bodies[0]:
            wanted = weights[name] + (bodies[0][name].dense() + bodies[1][name].dense())
            assert torch.equal(base.model.get_parameter(name), wanted)
            either = {*bodies[0][name].indices.tolist(), *bodies[1][name].indices.tolist()}
            assert set(change.delta[name].indices.tolist()) <= either
    assert all(torch.equal(weights[n], p) for n, p in base.model.named_parameters())
    Specialist(base, (change,)).save(tmp_path / "both")
    again = Specialist.load(tmp_path / "both", base=base)
    said = Specialist(base, (change,)).answer(task, list(task.train))
    assert [a.logprobs for a in again.answer(task, list(task.train))] == [a.logprobs for a in said]
