"""aTLAS and AdaMerging: gradients of coefficients by hand, their objectives, and what they must lower."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.merge.learning import colours, noise, saved, scores, with_head
from tests.tiny import tiny_causal, tiny_encoder, tiny_seq2seq, tiny_task

from metier.delta import New
from metier.errors import NotApplicable, UserError
from metier.merge import adamerging as ada
from metier.merge.atlas import Settings, atlas
from metier.model import Base, Specialist, WeightChange
from metier.model.change import WeightChange as Change
from metier.model.encoder import HEAD
from metier.task import Task
from metier.task.load import load_task
from metier.train import Budget, Run
from metier.tune.where import full


def sureness(base: Base, task: Task, change: Change) -> float:
    """Mean entropy of the choices on the train split."""
    rows = torch.stack(Specialist(base, (change,)).choose(task, list(task.train)))
    return float(-(rows.exp() * rows).sum(1).mean())


def likelihood(base: Base, task: Task, change: Change | None) -> float:
    """Mean log-probability of the right choice on the train split."""
    rows = Specialist(base, (change,) if change else ()).choose(task, list(task.train))
    return sum(float(r[task.choices_of(e).index(e.answer)]) for r, e in zip(rows, task.train, strict=True)) / len(rows)


@pytest.mark.parametrize(("make", "kind"), [(tiny_causal, "choose"), (tiny_seq2seq, "generate"), (tiny_encoder, "choose")])
def test_from_zero_coefficients_a_step_follows_the_gradient(tmp_path: Path, make, kind: str) -> None:
    """A first step of AdamW is minus the gradient's sign times lr; the change stored is the sum of coefficient times change."""
    base, task = make(), replace(tiny_task(kind, train=6).sealed(), dev=())
    bodies = [noise(base, 1, 0.2), noise(base, 2, 0.2)]
    places = saved(base, tmp_path, [with_head(base, bodies[0], task, 1), WeightChange(bodies[1])])
    change = atlas(Specialist(base), task, Settings(experts=places, lr=0.01, batch_size=6), Run(budget=Budget(6)))
    coefs = change.provenance["coefs"]
    for name, delta in ((n, change.delta[n].dense()) for n in bodies[0]):
        torch.testing.assert_close(delta, sum(c * b[name].dense() for c, b in zip(coefs[name], bodies, strict=True)), rtol=1e-3, atol=1e-6)
    assert {abs(round(c, 4)) for row in coefs.values() for c in row} <= {0.0, 0.01}


def test_the_step_is_down_the_naive_gradient(tmp_path: Path) -> None:
    base, task = tiny_causal(), replace(colours(train=4), dev=())
    names = ["model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"]
    body = noise(base, 1, 0.3, lambda n: n in names)
    options = Settings(experts=saved(base, tmp_path, [body]), lr=0.01, batch_size=4, objective="entropy")
    coefs = atlas(Specialist(base), task, options, Run(budget=Budget(4))).provenance["coefs"]
    live = {n: torch.zeros((), requires_grad=True) for n in names}
    weights = {n: base.model.get_parameter(n).detach() + live[n] * body[n].dense() for n in names}
    rows = scores(base, task, weights)
    (-(rows.exp() * rows).sum(1).mean()).backward()
    for n in names:
        assert coefs[n][0] == pytest.approx(-0.01 * float(live[n].grad.sign()), rel=1e-3)


@pytest.mark.parametrize("make", [tiny_causal, *(pytest.param(make, marks=pytest.mark.slow) for make in (tiny_seq2seq, tiny_encoder))])
@pytest.mark.parametrize("objective", ["entropy", "pseudo"])
def test_without_labels_guesses_become_surer_whatever_the_answers(tmp_path: Path, make, objective: str) -> None:
    base, task = make(), colours()
    places = saved(base, tmp_path, [with_head(base, noise(base, 1, 0.2), task, 1), WeightChange(noise(base, 2, 0.2))])
    options = Settings(experts=places, lr=0.03, batch_size=12, objective=objective, threshold=0.0)
    found = atlas(Specialist(base), task, options, Run(budget=Budget(72)))
    wrong = replace(task, train=[replace(e, target="warm" if e.target == "cold" else "cold") for e in task.train])
    other = atlas(Specialist(base), wrong, options, Run(budget=Budget(72)))
    assert found.provenance == other.provenance
    still = atlas(Specialist(base), task, replace_lr(options), Run(budget=Budget(12)))
    assert sureness(base, task, found) < sureness(base, task, still)


def replace_lr(options: Settings) -> Settings:
    return replace(options, lr=1e-12)


@pytest.mark.slow
def test_addition_uses_the_expert_that_knows_the_task_and_negation_takes_it_away(tmp_path: Path) -> None:
    base, task = tiny_causal(), colours()
    expert = full.full(Specialist(base), task, full.Settings(lr=3e-3, batch_size=12), Run(budget=Budget(120)))
    places = saved(base, tmp_path, [expert, noise(base, 2)])
    before = likelihood(base, task, None)
    learnt = atlas(Specialist(base), task, Settings(experts=places, lr=0.1, batch_size=12, blocks="model"), Run(budget=Budget(120)))
    assert likelihood(base, task, learnt) > before + 0.02
    forgot = atlas(Specialist(base), task, Settings(experts=places, lr=0.05, batch_size=12, goal="forget"), Run(budget=Budget(120)))
    wrong = replace(task, train=[replace(e, target="warm" if e.target == "cold" else "cold") for e in task.train])
    assert likelihood(base, wrong, forgot) > likelihood(base, wrong, None) + 0.02  # log(1 - p) of the answer


def test_a_control_task_is_not_forgotten_along(tmp_path: Path) -> None:
    base, task = tiny_causal(), colours()
    rows = [{"question": e.fields["question"], "answer": e.answer} for e in tiny_task("generate").train]
    (tmp_path / "control.jsonl").write_text("\n".join(json.dumps(r) for r in rows * 1), encoding="utf-8")
    places = saved(base, tmp_path, [noise(base, 1, 0.3)])
    options = {"experts": places, "lr": 0.1, "batch_size": 12, "goal": "forget"}
    plain = atlas(Specialist(base), task, Settings(**options), Run(budget=Budget(60)))
    minded = atlas(Specialist(base), task, Settings(**options, control=str(tmp_path / "control.jsonl")), Run(budget=Budget(60)))
    assert plain.provenance != minded.provenance


@pytest.mark.parametrize("make", [tiny_causal, tiny_encoder])
@pytest.mark.parametrize("blocks", ["model", "layer", "tensor"])
def test_adamerging(tmp_path: Path, make, blocks: str) -> None:
    base, task = make(), colours()
    bodies = [noise(base, 1, 0.2), noise(base, 2, 0.2)]
    places = saved(base, tmp_path, [with_head(base, bodies[0], task, 1), WeightChange(bodies[1])])
    still = ada.adamerging(Specialist(base), task, ada.Settings(experts=places, blocks=blocks, lr=1e-12), Run(budget=Budget(12)))
    for name in bodies[0]:  # the start is task arithmetic with 0.3
        torch.testing.assert_close(
            still.delta[name].dense(), 0.3 * (bodies[0][name].dense() + bodies[1][name].dense()), rtol=1e-3, atol=1e-5
        )
    options = ada.Settings(experts=places, blocks=blocks, lr=0.05, batch_size=12)
    found = ada.adamerging(Specialist(base), task, options, Run(budget=Budget(72)))
    coefs = found.provenance["coefs"]
    assert all(0.0 <= c <= 1.0 for row in coefs.values() for c in row)
    count = {"model": 1, "tensor": len({tuple(r) for r in coefs.values()})}.get(blocks)
    assert count is None or len({tuple(r) for r in coefs.values()}) == count
    assert sureness(base, task, found) < sureness(base, task, still)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    base = tiny_causal()
    places = saved(base, tmp_path, [noise(base, 1)])
    with pytest.raises(NotApplicable, match="without labels only tasks of kind 'choose'"):
        atlas(Specialist(base), tiny_task("generate").sealed(), Settings(experts=places, objective="entropy"), Run())
    with pytest.raises(UserError, match="forgetting needs labels"):
        Settings(experts=places, objective="entropy", goal="forget")
    with pytest.raises(UserError, match="along: other tasks are learnt from labels only"):
        Settings(experts=places, objective="entropy", along=("other",))
    with pytest.raises(UserError, match="experts: none given"):
        ada.Settings(experts=())


def test_several_tasks_each_with_the_head_of_its_own_expert(tmp_path: Path) -> None:
    """The first step is down the gradient of both tasks' mean losses, by finite differences."""
    base, task = tiny_encoder(), replace(colours(), dev=())
    rows = [{"text": e.fields["text"], "feeling": "rojo" if e.target == "warm" else "azul"} for e in task.train]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "other.yaml").write_text(
        "data: other.jsonl\ntemplate: '{{ text }}'\nfields: {target: feeling}\nchoices: [rojo, azul]\n", encoding="utf-8"
    )
    other = load_task(tmp_path / "other.yaml")
    bodies = [noise(base, 1, 0.2), noise(base, 2, 0.2)]
    changes = [with_head(base, bodies[0], task, 1), with_head(base, bodies[1], other, 8)]
    steep = New(8.0 * changes[1].new_tensors()[HEAD[0]])  # so that the other task decides
    changes[1] = replace(changes[1], delta=replace(changes[1].delta, entries={**changes[1].delta.entries, HEAD[0]: steep}))
    options = Settings(experts=saved(base, tmp_path, changes), lr=0.01, batch_size=12, blocks="model")
    run = Run(budget=Budget(12))

    def loss(coefs: list[float], asked: list[int]) -> float:
        total = 0.0
        for i in asked:
            body = coefs[0] * bodies[0] + coefs[1] * bodies[1]
            head = {n: changes[i].delta[n] for n in HEAD}
            total -= likelihood(base, (task, other)[i], WeightChange(replace(body, entries={**body.entries, **head}), changes[i].labels))
        return total

    def signs(asked: list[int]) -> list[int]:
        steps = [[0.05 * (i == j) for i in range(2)] for j in range(2)]
        return [1 if loss(s, asked) > loss([-x for x in s], asked) else -1 for s in steps]

    for along, asked in (((), [0]), ((str(tmp_path / "other.yaml"),), [0, 1])):
        coefs = next(iter(atlas(Specialist(base), task, replace(options, along=along), run).provenance["coefs"].values()))
        assert coefs == [pytest.approx(-0.01 * s, rel=1e-3) for s in signs(asked)]
    assert signs([0]) != signs([0, 1])
