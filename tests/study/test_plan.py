"""The plan: what is refused at the door, what will run, and what it will cost."""

from __future__ import annotations

import dataclasses
import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny_causal, tiny_encoder, tiny_seq2seq, tiny_task

from metier import progress
from metier.errors import UserError
from metier.model import Base
from metier.study import plan as plans
from metier.study.door import fitting, too_long
from metier.study.execute import BaseSpec
from metier.study.plan import Plan, chosen_methods, make_plan
from metier.study.trial import run_trial
from metier.task import Example, Task
from metier.task.general import continuation
from metier.train import Budget
from metier.worlds import world

TASK = tiny_task("choose")


def plan_of(base: Base | None = None, tasks: Any = (TASK,), **more: Any) -> Plan:
    options: dict[str, Any] = {
        "methods": ["few-shot", "lora"],
        "budget": Budget(48),
        "retain": (),
        "seeds": (0,),
        "settings": {},
        "precision": "float32",
    }
    return make_plan(base or tiny_causal(), tasks, **{**options, **more})


def test_order_of_jobs_and_facts() -> None:
    plan = plan_of(seeds=(3, 5), retain=(tiny_task("generate"),))
    assert [(j.seed, j.method) for j in plan.jobs] == [(s, m) for s in (3, 5) for m in ("zero-shot", "few-shot", "lora")]
    facts = plan.facts()
    assert facts["trials"] == [j.key(plan.base) for j in plan.jobs] and len(set(facts["trials"])) == 6
    assert facts["retain"] == ["homes"] and facts["tasks"][0]["n_test"] == 4 and facts["precision"] == "float32"
    assert facts["estimate"]["seconds"] > 0 and facts["machine"]["cores"] and facts["versions"]["torch"]


def test_a_task_does_not_retain_itself() -> None:
    other = tiny_task("generate")
    jobs = plan_of(tasks=(TASK, other), retain=(TASK, other)).jobs
    assert {(j.task.name, *(t.name for t in j.retain)) for j in jobs} == {("colours", "homes"), ("homes", "colours")}


def test_budget_is_three_epochs_and_not_too_little() -> None:
    assert plan_of(budget=None).budget == Budget(2000)
    many = tuple(Example(f"x{i}", {"text": f"a red hat {i}"}, "warm") for i in range(800))
    assert plan_of(tasks=(dataclasses.replace(TASK, train=many),), budget=None).budget == Budget(2400)


@pytest.mark.parametrize(
    ("methods", "settings", "message"),
    [
        (["lorra"], {}, "unknown method 'lorra'. Did you mean 'lora'"),
        (["lora+lora"], {}, "names a method twice"),
        (["lora"], {"lora": {"rnk": 4}}, "method lora: unknown setting 'rnk'. Did you mean 'rank'"),
        (["lora"], {"lora": {"rank": "many"}}, "method lora: rank: must be a number; got 'many'"),
        (["lora"], {"lora": {"rank": 0}}, "rank must be at least 1"),
        (["lora"], {"bitfit": {"lr": 1e-3}}, "settings are given for 'bitfit', which is not among the methods lora"),
        (["nowhere:at_all"], {}, "cannot find module 'nowhere'"),
        (["json:dumps"], {}, "defines no ABOUT"),
    ],
)
def test_methods_and_settings_are_checked(methods: list[str], settings: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        chosen_methods(methods, settings)


def test_settings_from_text_and_from_python_are_the_same_trial() -> None:
    text, number = (plan_of(settings={"lora": {"rank": r}}) for r in ("4", 4))
    assert text.facts()["trials"] == number.facts()["trials"] and text.jobs[2].settings == {"lora": {"rank": 4}}


def test_names_must_tell_tasks_apart() -> None:
    with pytest.raises(UserError, match="two tasks are named 'colours'"):
        plan_of(tasks=(TASK, TASK))
    with pytest.raises(UserError, match="two tasks are named 'homes'"):
        plan_of(retain=(tiny_task("generate"), tiny_task("generate")))
    with pytest.raises(UserError, match="a task and a retained one are both named 'colours'"):
        plan_of(retain=(dataclasses.replace(tiny_task("generate"), name="colours", source="other.csv"),))
    with pytest.raises(UserError, match="'a/b': the name cannot be a file's name"):
        plan_of(tasks=(dataclasses.replace(TASK, name="a/b"),))
    with pytest.raises(UserError, match="no test examples"):
        plan_of(tasks=(dataclasses.replace(TASK, test=()),))


# --- what does not fit -------------------------------------------------------------------------------------------------
def longer(split: str, words: int, kind: str = "choose") -> Task:
    task = tiny_task(kind)
    field = next(iter(task.train[0].fields))
    examples = list(task.split(split))
    examples[1] = dataclasses.replace(examples[1], fields={field: "hat " * words})
    return dataclasses.replace(task, **{split: tuple(examples)})


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize("make", [tiny_causal, tiny_seq2seq, tiny_encoder])
def test_prompt_longer_than_the_context_is_refused_at_the_door(make: Any, split: str) -> None:
    task, base = longer(split, 300), make()
    with pytest.raises(
        UserError, match=f"task colours, example {task.split(split)[1].id}: .* exceed the {base.max_length} that .* reads.*--truncate"
    ):
        plan_of(base, (task,), methods=["zero-shot"])
    with pytest.raises(UserError, match="--truncate"):
        plan_of(
            base,
            (TASK,),
            retain=(dataclasses.replace(task, name="other", train=(), dev=(), test=task.split(split)),),
            methods=["zero-shot"],
        )


def test_truncate_goes_on_and_says_how_many(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    base = dataclasses.replace(tiny_causal(), truncate=True)
    plan = plan_of(base, (longer("test", 300),), methods=["zero-shot", "few-shot"])
    assert "task colours: 1 of its texts are longer than the 256 tokens that" in caplog.text
    assert [run_trial(j, base, tmp_path)["status"] for j in plan.jobs] == ["done", "done"]


@pytest.mark.slow
def test_answers_that_leave_no_room_for_the_prompt_are_left_out_of_what_is_learnt(tmp_path: Path) -> None:
    base, task = dataclasses.replace(tiny_causal(), truncate=True), tiny_task("generate")
    examples = {s: list(task.split(s)) for s in ("train", "dev", "test")}
    for rows in examples.values():
        rows[1] = dataclasses.replace(rows[1], target="hat " * 300)  # of test only what the base writes must fit
    task = dataclasses.replace(task, **{s: tuple(rows) for s, rows in examples.items()})
    with pytest.raises(UserError, match=f"example {examples['train'][1].id}: prompt of .* exceed the 256"):
        plan_of(tiny_causal(), (task,))
    plan = plan_of(base, (task,), methods=["zero-shot", "lora", "prompt-tuning"])
    (kept,) = plan.tasks
    assert kept.train == tuple(e for i, e in enumerate(task.train) if i != 1) and kept.dev == tuple(
        e for i, e in enumerate(task.dev) if i != 1
    )
    assert kept.test == task.test
    (warning,) = plan.facts()["tasks"][0]["warnings"]
    assert warning.startswith("2 examples of train and dev are left out: their answers take more than half of the 256 tokens that ")
    cards = [run_trial(job, base, tmp_path) for job in plan.jobs]
    assert [card["status"] for card in cards] == ["done"] * 3, [card["error"] for card in cards]
    with pytest.raises(UserError, match="max_new_tokens is 256, which leaves no room for a prompt in the 256 tokens"):
        plan_of(base, (dataclasses.replace(task, max_new_tokens=256),))


def test_pictures_that_a_base_of_words_does_not_see_are_named(caplog: pytest.LogCaptureFixture) -> None:
    base = dataclasses.replace(tiny_causal(), truncate=True)
    plan, told = (
        plan_of(base, (world("signals", size=0.02).task("image-count"),), methods=["zero-shot"]),
        "reads text; of the field image it sees",
    )
    assert f"task image-count: {base.name} {told} nothing but what the prompt says." in caplog.text
    assert [told in warning for warning in plan.facts()["tasks"][0]["warnings"]] == [True]
    caplog.clear()
    assert plan_of(base, methods=["zero-shot"]).facts()["tasks"][0]["warnings"] == [] and not caplog.text


@pytest.mark.parametrize("kind", ["choose", "generate"])
def test_too_long_is_what_the_model_refuses(kind: str) -> None:
    """The shortcut by bytes and the count of tokens agree with the reader, around the limit."""
    from metier.model import Specialist

    base, task = tiny_causal(), tiny_task(kind)
    field = next(iter(task.train[0].fields))
    examples = [dataclasses.replace(task.test[0], id=f"n{n}", fields={field: "hat " * n}) for n in range(60, 260, 5)]
    task = dataclasses.replace(task, test=tuple(examples))
    refused = set()
    for example in examples:
        try:
            Specialist(base).answer(task, [example])
        except UserError:
            refused.add(example.id)
    assert set(too_long(base, task)) == refused and 0 < len(refused) < len(examples)


@pytest.mark.parametrize("name", ["few-shot", "rag", "rag+few-shot"])
def test_exemplars_and_passages_keep_within_the_context(name: str, tmp_path: Path) -> None:
    task = longer("test", 180, "generate")
    base = tiny_causal()
    fitting(base, task)
    settings: dict[str, Any] = {"few-shot": {"shots": 12}} if "few-shot" in name else {}
    settings |= {"rag": {"passages": 12}} if "rag" in name else {}
    job = plan_of(base, (task,), methods=[name], settings=settings).jobs[1]
    card = run_trial(job, base, tmp_path)
    assert card["status"] == "done", card["error"]


def test_builtin_retained_task_has_only_what_a_short_context_reads() -> None:
    from metier.study.comparing import _retained

    short = tiny_causal(max_length=128)
    kept = _retained([TASK], (), short)
    assert too_long(short, continuation()) and all(not too_long(short, t) for t in kept)
    assert _retained([TASK], (), dataclasses.replace(short, max_length=20)) == []


# --- what it will cost ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_estimate_grows_with_what_is_done() -> None:
    def seconds(methods: list[str], **more: Any) -> float:
        plan = plan_of(methods=methods, **more)
        return plan.estimate.per_job[f"{methods[0]}|{plan.tasks[0].name}|0"]

    assert seconds(["lora"], budget=Budget(60, "seconds")) == pytest.approx(60, rel=0.3)
    assert seconds(["bitfit+lora"], budget=Budget(60, "seconds")) == pytest.approx(60, rel=0.3)
    assert seconds(["lora"], budget=Budget(48000)) > 3 * seconds(["lora"], budget=Budget(480))
    assert seconds(["lora"], budget=Budget(4.8e5, "tokens")) > 3 * seconds(["lora"], budget=Budget(480, "tokens"))
    generate = {"tasks": (tiny_task("generate"),)}
    assert seconds(["self-consistency"], **generate) > seconds(["zero-shot"], **generate)
    assert "rag|colours|0" not in plan_of(tasks=(dataclasses.replace(TASK, documents=()),), methods=["rag"]).estimate.per_job


@pytest.mark.slow
def test_estimate_is_near_what_it_takes(tmp_path: Path) -> None:
    base, tasks = tiny_causal(), (tiny_task("choose", train=24, dev=8, test=8), tiny_task("generate"))
    methods = ["few-shot", "lora", "bitfit", "few-shot+lora", "self-consistency", "calibrate"]
    run_trial(plan_of(base).jobs[2], base, tmp_path / "warm")
    plan = plan_of(
        base, tasks, methods=methods, budget=Budget(400), retain=(dataclasses.replace(continuation(), test=continuation().test[:20]),)
    )
    started = time.perf_counter()
    for job in plan.jobs:
        run_trial(job, base, tmp_path)
    taken = time.perf_counter() - started
    assert taken / 4 < plan.estimate.seconds < 4 * taken, (taken, plan.estimate.seconds)  # on a machine that others use too


def test_memory_is_more_for_all_weights() -> None:
    big = dataclasses.replace(tiny_causal())
    big.__dict__["parameters"] = 10**9
    few, every = (plans.memory_of(plan_of(methods=[m]).jobs[1], big) for m in ("lora", "full"))
    assert 4e9 < few < every < 4e10


def test_spec_of_a_base_loads_the_same_base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = dataclasses.replace(tiny_causal(), truncate=True)
    spec = BaseSpec.of(base)
    monkeypatch.chdir(tmp_path)
    again = spec.load()
    assert (again.fingerprint, again.family, again.truncate, again.max_length) == (base.fingerprint, "causal", True, base.max_length)
    monkeypatch.chdir(Path(base.path).parent)
    assert Path(BaseSpec.of(dataclasses.replace(base, path=Path(base.path).name)).name).is_absolute()


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5000, "84 min"), (9000, "2.5 h")])
def test_spoken(seconds: float, text: str) -> None:
    assert progress.spoken(seconds) == text
