"""One trial: its search, its records, its folder; what fails and how it says so."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.study.making import REPOSITORY, environment, essence, leavings, method
from tests.tiny import tiny_causal, tiny_encoder, tiny_task

from metier.errors import Unwritable, UserError
from metier.evaluate.record import read_records
from metier.model import Specialist
from metier.study import trial as trials
from metier.study.job import Job
from metier.study.trial import run_trial
from metier.task import Task
from metier.train import Budget
from metier.train import loop as training

TASK = tiny_task("choose")
BUDGET = Budget(48)


def job(name: str, task: Task = TASK, **more: Any) -> Job:
    return Job(**{"method": name, "task": task, "seed": 0, "budget": BUDGET, "precision": "float32", **more})


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, body: method(tmp_path, name, body)


def test_trial_writes_what_it_measured(tmp_path: Path) -> None:
    other = dataclasses.replace(tiny_task("generate"), name="other", train=(), dev=(), ood=())
    task = dataclasses.replace(TASK, ood=TASK.test[:2])
    told: list[str] = []
    card = run_trial(job("few-shot+lora", task, retain=(other,)), tiny_causal(), tmp_path, tell=told.append)
    place = tmp_path / "trials" / card["key"]
    assert card["status"] == "done" and card == json.loads((place / "trial.json").read_text())
    assert sorted(p.name for p in place.iterdir()) == [
        "records-ood.parquet", "records-retain-other.parquet", "records-test.parquet", "specialist", "trial.json"
    ]  # fmt: skip
    assert [r["method"] for r in card["search"]] == ["few-shot"] * 6 + ["lora"] * 3
    assert card["settings"]["few-shot"]["shots"] in (2, 4, 8) and card["settings"]["lora"]["rank"] == 8
    cost = card["cost"]
    assert cost["search_trials"] == 9 and cost["trainable_parameters"] > 0 and cost["flops_train"] > 0 and cost["flops_evaluate"] > 0
    assert cost["examples_seen"] == pytest.approx(48, abs=3 * 12)  # rounded to whole steps, four times
    assert "few-shot trying 1/6" in told and "measuring" in told and leavings(tmp_path) == []
    again = Specialist.load(place / "specialist", base=tiny_causal())
    said = again.answer(task, list(task.test))
    for record, answer in zip(read_records(place / "records-test.parquet"), said, strict=True):
        assert record.output == answer.output and record.logprobs == pytest.approx(list(answer.logprobs or ()), abs=1e-6)
    assert again.changes[1].provenance["settings"] == card["settings"]["lora"] and again.changes[1].provenance["method"] == "lora"


def test_finished_is_read_and_failed_is_tried_again(tmp_path: Path, stranger: Callable[[str, str], str]) -> None:
    card = run_trial(job("zero-shot"), tiny_causal(), tmp_path)
    file = tmp_path / "trials" / card["key"] / "trial.json"
    before = file.stat().st_ino, file.stat().st_mtime_ns
    assert run_trial(job("zero-shot"), tiny_causal(), tmp_path) == card and (file.stat().st_ino, file.stat().st_mtime_ns) == before
    bad = stranger("failing", "raise Diverged('training: it burst.')")
    failed = run_trial(job(bad), tiny_causal(), tmp_path)
    assert failed["status"] == "failed" and failed["error"] == "training: it burst."
    file = tmp_path / "trials" / failed["key"] / "trial.json"
    node = file.stat().st_ino
    assert run_trial(job(bad), tiny_causal(), tmp_path)["status"] == "failed" and file.stat().st_ino != node
    file.write_text("{")
    with pytest.raises(UserError, match="trial.json: not valid JSON .* Delete the folder"):
        run_trial(job(bad), tiny_causal(), tmp_path)


def test_key_moves_with_what_moves_a_result(tmp_path: Path) -> None:
    base, plain = tiny_causal(), job("few-shot+lora")
    keys = {
        plain.key(base),
        plain.key(tiny_causal(seed=1)),
        job("lora").key(base),
        dataclasses.replace(plain, seed=1).key(base),
        dataclasses.replace(plain, budget=Budget(49)).key(base),
        dataclasses.replace(plain, precision="bf16").key(base),
        dataclasses.replace(plain, settings={"lora": {"rank": 4}}).key(base),
        dataclasses.replace(plain, retain=(tiny_task("generate"),)).key(base),
        dataclasses.replace(plain, task=dataclasses.replace(TASK, instruction="Say it.")).key(base),
    }
    assert len(keys) == 9
    assert dataclasses.replace(plain, settings={"bitfit": {"lr": 1.0}}).key(base) == plain.key(base)  # another method's settings
    assert dataclasses.replace(plain, task=dataclasses.replace(TASK, options={"warnings": ["x"]})).key(base) == plain.key(base)


def test_no_smaller_base_is_no_failure(tmp_path: Path) -> None:
    card = run_trial(job("emulated-fine-tuning"), tiny_causal(), tmp_path)
    assert card["status"] == "not-applicable" and "no smaller base is known" in card["error"]


@pytest.mark.slow
def test_same_seed_same_trial(tmp_path: Path) -> None:
    cards = [run_trial(job("lora"), tiny_causal(), tmp_path / name) for name in "ab"]
    records = [read_records(tmp_path / n / "trials" / cards[0]["key"] / "records-test.parquet") for n in "ab"]
    assert [r.logprobs for r in records[0]] == [r.logprobs for r in records[1]]
    assert cards[0]["curve"] == cards[1]["curve"] and cards[0]["settings"] == cards[1]["settings"]


@pytest.mark.parametrize("look", ["len(task.test)", "list(task.ood)", "task.test[0]", "task.split('test')[0]", "bool(task.test)"])
def test_test_split_is_sealed(tmp_path: Path, stranger: Callable[[str, str], str], look: str) -> None:
    card = run_trial(job(stranger("peeking", look)), tiny_causal(), tmp_path)
    assert card["status"] == "failed" and "split is sealed: methods see train and dev only" in card["error"]


def test_strangers_method_runs(tmp_path: Path, stranger: Callable[[str, str], str]) -> None:
    name = stranger("harmless", "pass")
    card = run_trial(job(f"{name}+lora"), tiny_causal(), tmp_path)
    assert card["status"] == "done" and set(card["settings"]) == {name, "lora"} and card["places"] == ["in", "weights"]


@pytest.mark.parametrize(
    ("name", "task", "base", "reason"),
    [
        ("rag", dataclasses.replace(TASK, documents=()), tiny_causal, "rag needs documents; colours has none"),
        ("self-consistency", TASK, tiny_causal, "self-consistency works on tasks of kind generate; colours is of kind choose"),
        ("few-shot", TASK, tiny_encoder, "few-shot works on causal, seq2seq bases; .* is of family encoder"),
        ("lora", dataclasses.replace(TASK, train=()), tiny_causal, "lora needs training examples; colours has none"),
        ("zero-shot", tiny_task("generate"), tiny_encoder, "is an encoder and cannot generate"),
    ],
)
def test_what_does_not_apply_says_why(tmp_path: Path, name: str, task: Task, base: Callable[[], Any], reason: str) -> None:
    card = run_trial(job(name, task), base(), tmp_path)
    assert card["status"] == "not-applicable"
    with pytest.raises(AssertionError if card["error"] is None else UserError, match=reason):
        raise UserError(card["error"])


# --- what can go wrong in the middle -----------------------------------------------------------------------------------
def test_not_a_number_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    card = run_trial(job("lora", settings={"lora": {"lr": 1e12}}), tiny_causal(), tmp_path)
    assert card["status"] == "failed" and "Lower the learning rate" in card["error"] and "traceback" not in card


@pytest.mark.slow
def test_search_survives_a_candidate_that_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = training._Loop._guard

    def guard(self: Any, loss: float) -> None:
        first(self, math.nan if self.optimizer.param_groups[0]["top"] > 5e-3 else loss)

    monkeypatch.setattr(training._Loop, "_guard", guard)
    card = run_trial(job("lora"), tiny_causal(), tmp_path)
    assert card["status"] == "done" and card["settings"]["lora"]["lr"] < 5e-3
    assert [bool(r["error"]) for r in card["search"]] == [False, False, True]
    monkeypatch.setattr(training._Loop, "_guard", lambda self, loss: first(self, math.nan))
    card = run_trial(job("lora", seed=1), tiny_causal(), tmp_path)
    assert card["status"] == "failed" and "diverged with every candidate" in card["error"] and "--set lora.lr=" in card["error"]


def test_out_of_memory_halves_the_batch_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run_trial(job("lora", settings={"lora": {"lr": 1e-3}}), tiny_causal(), tmp_path / "whole")
    first, said = training._Loop._forward_backward, []

    def short(self: Any, rows: Any) -> float:
        if self.micro == 1 and len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return float(first(self, rows))

    monkeypatch.setattr(training._Loop, "_forward_backward", short)
    card = run_trial(job("lora", settings={"lora": {"lr": 1e-3}}), tiny_causal(), tmp_path, say=said.append)
    assert card["status"] == "done" and len(said) == 1
    assert said == card["remarks"] and said[0].startswith(
        "colours lora seed 0: out of memory with 12 examples a step: going on with 6 at a time"
    )
    assert card["cost"]["examples_seen"] == wanted["cost"]["examples_seen"]
    assert [p["dev_loss"] for p in card["curve"]] == pytest.approx([p["dev_loss"] for p in wanted["curve"]], abs=1e-3)


def test_out_of_memory_twice_is_a_failure_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: Any, rows: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(training._Loop, "_forward_backward", never)
    card = run_trial(job("lora"), tiny_causal(), tmp_path)
    assert card["status"] == "failed" and card["error"].startswith("out of memory, also with a smaller batch")


def test_out_of_memory_while_answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    wanted = run_trial(job("zero-shot", tiny_task("choose", test=6)), tiny_causal(), tmp_path / "whole")
    first = Specialist.answer

    def short(self: Any, task: Task, examples: Any, *, seed: int = 0) -> Any:
        if len(examples) > 4:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory")
        return first(self, task, examples, seed=seed)

    monkeypatch.setattr(Specialist, "answer", short)
    card = run_trial(job("zero-shot", tiny_task("choose", test=6)), tiny_causal(), tmp_path)
    assert card["status"] == "done" and "out of memory while 6 examples of colours were answered: going on with 4 at a time" in caplog.text
    both = [read_records(tmp_path / n / "trials" / wanted["key"] / "records-test.parquet") for n in ("whole", ".")]
    for a, b in zip(*both, strict=True):
        assert a.output == b.output and a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_full_disk_stops_everything_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(number, "as a full disk says")

    monkeypatch.setattr(trials, "write_records", full)
    with pytest.raises(Unwritable, match="disk is (full|read-only)"):
        run_trial(job("zero-shot"), tiny_causal(), tmp_path)
    assert not list((tmp_path / "trials").iterdir())


def test_interrupt_gets_through_and_leaves_nothing(tmp_path: Path, stranger: Callable[[str, str], str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_trial(job(stranger("stopping", "raise KeyboardInterrupt")), tiny_causal(), tmp_path)
    assert not list((tmp_path / "trials").iterdir())


def test_unexpected_error_keeps_its_traceback(tmp_path: Path, stranger: Callable[[str, str], str]) -> None:
    card = run_trial(job(stranger("stumbling", "1 / 0")), tiny_causal(), tmp_path)
    assert card["error"] == "ZeroDivisionError: division by zero" and "stumbling_module.py" in card["traceback"]


def test_seconds_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = run_trial(job("few-shot", budget=Budget(1e-6, "seconds")), tiny_causal(), tmp_path)
    tried = [r["error"] is None for r in card["search"]]
    assert card["status"] == "done" and tried == [True] + [False] * 5 and card["cost"]["search_trials"] == 1
    assert "not tried: the budget of 1e-06s was spent" in card["search"][1]["error"]


@pytest.mark.slow
def test_training_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = run_trial(job("lora", budget=Budget(240)), tiny_causal(), tmp_path / "whole")
    monkeypatch.setattr(training.checkpoint, "EVERY_SECONDS", -1.0)  # at every step
    steps: list[str] = []

    def tell(what: str) -> None:
        steps.append(what)
        if what.startswith("lora step 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(job("lora", budget=Budget(240)), tiny_causal(), tmp_path, tell=tell)
    assert (tmp_path / "trials" / ".work").exists()
    after: list[str] = []
    card = run_trial(job("lora", budget=Budget(240)), tiny_causal(), tmp_path, tell=after.append)
    assert next(w for w in after if " step " in w).startswith("lora step 3/"), "it began anew"
    both = [read_records(tmp_path / n / "trials" / card["key"] / "records-test.parquet") for n in ("whole", ".")]
    assert [r.logprobs for r in both[0]] == [r.logprobs for r in both[1]]
    same = ("settings", "curve", "search")
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in card["search"]] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in wanted["search"]
    ]
    assert all(card[k] == wanted[k] for k in same if k != "search")
    assert card["cost"]["examples_seen"] == wanted["cost"]["examples_seen"] and card["cost"]["flops_train"] == wanted["cost"]["flops_train"]
    assert leavings(tmp_path) == [] or (leavings(tmp_path) == ["trials/.work"] and not list((tmp_path / "trials/.work").iterdir()))


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.study.test_trial import job
from tests.tiny import tiny_causal
from metier.study.trial import run_trial

def tell(what):
    if what == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

run_trial(job(sys.argv[3]), tiny_causal(), Path(sys.argv[1]), tell=tell)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "at", "left"),
    [
        ("lora", "lora trying 3/3", ["lora trying 3/3"]),
        ("few-shot+lora", "lora trying 3/3", ["lora trying 3/3"]),
        ("few-shot", "measuring", []),
    ],
)
def test_a_search_goes_on_where_it_was_killed(tmp_path: Path, name: str, at: str, left: list[str]) -> None:
    """What was tried is not tried again, and the trial is the one that was left alone."""
    wanted = run_trial(job(name), tiny_causal(), tmp_path / "whole")
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, at, name], cwd=REPOSITORY, env=environment(), timeout=240)
    assert killed.returncode == -signal.SIGKILL and not list(tmp_path.glob("trials/*/trial.json"))
    told: list[str] = []
    card = run_trial(job(name), tiny_causal(), tmp_path, tell=told.append)
    assert [w for w in told if " trying " in w] == left
    assert essence(card) == essence(wanted)
    assert card["cost"]["seconds_search"] == pytest.approx(sum(r["seconds"] for r in card["search"]))
    both = [read_records(tmp_path / n / "trials" / card["key"] / "records-test.parquet") for n in ("whole", ".")]
    assert [r.logprobs for r in both[0]] == [r.logprobs for r in both[1]]


def test_a_key_moves_with_the_content_of_what_a_setting_names(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    (small / "model.safetensors").write_bytes(b"one")
    base, given = tiny_causal(), {"emulated-fine-tuning": {"small": str(small)}}
    before = job("emulated-fine-tuning", settings=given).key(base)
    assert job("emulated-fine-tuning", settings=given).key(base) == before
    (small / "model.safetensors").write_bytes(b"another")
    assert job("emulated-fine-tuning", settings=given).key(base) != before
    assert job("full", settings=given).key(base) == job("full").key(base)


def test_what_tune_makes_says_how_it_was_made(tmp_path: Path) -> None:
    """Method, settings, task, seed, papers, versions and what went in, also as an expert of a later merge."""
    from tests.merge.learning import colours, noise, saved

    from metier.merge._experts import opened
    from metier.study import adapt

    base = tiny_causal()
    (place,) = saved(base, tmp_path, [noise(base, 1)])
    made = adapt("task-arithmetic", colours(), base, settings={"task-arithmetic": {"experts": (place,), "scale": 0.5}}, seed=3)
    made.save(tmp_path / "made")
    told = opened(tmp_path / "made", base).record
    assert (told["method"], told["task"], told["seed"], told["papers"]) == ("task-arithmetic", "colours", 3, [96])
    assert told["settings"]["scale"] == 0.5 and {"metier", "torch"} <= set(told["versions"])
    (one,) = told["inputs"]
    assert one["path"] == place and one["kind"] == "specialist" and one["fingerprint"].startswith("sha256:")
    assert told["path"] == str(tmp_path / "made") and told["fingerprint"] != one["fingerprint"]
    lora = adapt("lora", colours(), base, budget="12ex").changes[0]
    assert lora.provenance["settings"]["rank"] and lora.provenance["task"] == "colours" and lora.provenance["budget"] == "12ex"
