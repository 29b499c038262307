"""The comparison: what it writes, what it hands over, what it refuses before anything is written."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.study.making import leavings, lines, method, rows, table
from tests.tiny import tiny_causal, tiny_task

import metier
from metier.errors import UserError
from metier.evaluate.record import read_records
from metier.study import comparing
from metier.study.comparing import Comparison, adapt, compare, finish

TASK = tiny_task("choose")
OTHER = dataclasses.replace(tiny_task("generate"), test=tiny_task("generate").test[:2])
QUICK: dict[str, Any] = {
    "methods": ["few-shot", "lora"],
    "budget": "48ex",
    "retain": (OTHER,),
    "seeds": 1,
    "precision": "float32",
    "quiet": True,
}


def study(out: Path, **more: Any) -> Comparison:
    return compare(more.pop("tasks", TASK), more.pop("base", tiny_causal()), out=out, **{**QUICK, **more})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return study(tmp_path_factory.mktemp("study") / "out", seeds=2)


def test_what_is_written(done: Comparison) -> None:
    assert sorted(p.name for p in done.out.iterdir()) == [".lock", "best", "plan.json", "report.html", "report.json", "trials"]
    assert done.report["trials"] == {"planned": 6, "done": 6, "failed": 0, "not_applicable": 0, "not_run": 0} and leavings(done.out) == []
    assert json.loads((done.out / "report.json").read_text()) == done.report


def test_best_answers_as_in_the_records(done: Comparison) -> None:
    chosen = done.report["recommendation"]["tasks"][0]["method"]
    keys = [t["key"] for m in done.report["tasks"][0]["methods"] if m["method"] == chosen for t in m["trials"]]
    said = done.best().answer(TASK, list(TASK.test))
    assert done.best("colours").base.fingerprint == tiny_causal().fingerprint
    assert any(
        all(
            a.output == r.output and list(a.logprobs or ()) == pytest.approx(r.logprobs, abs=1e-6)
            for a, r in zip(said, records, strict=True)
        )
        for records in (read_records(done.out / "trials" / k / "records-test.parquet") for k in keys)
    )
    with pytest.raises(UserError, match="no specialist here"):
        done.best("colors")


@pytest.mark.slow
def test_again_repeats_nothing(done: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    def nodes() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in done.out.glob("trials/*/*")}

    before = nodes()
    monkeypatch.setattr(comparing.execute, "run_trial", lambda *_, **__: pytest.fail("a finished trial was run again"))
    again = study(done.out, seeds=2)
    assert nodes() == before and again.report["tasks"] == done.report["tasks"]


@pytest.mark.slow
def test_other_arguments_in_the_same_folder(tmp_path: Path) -> None:
    first = study(tmp_path, methods=["few-shot", "calibrate"], seeds=2)
    second = study(tmp_path, methods=["calibrate", "bitfit"])
    assert [m["method"] for m in second.report["tasks"][0]["methods"]] == ["zero-shot", "calibrate", "bitfit"]
    assert second.report["trials"]["planned"] == second.report["trials"]["done"] == 3 and second.report["seeds"] == [0]
    assert all(m["seeds"] == [0] for m in second.report["tasks"][0]["methods"])
    shared = next(m for m in second.report["tasks"][0]["methods"] if m["method"] == "calibrate")["trials"][0]["key"]
    assert shared in [t["key"] for m in first.report["tasks"][0]["methods"] for t in m["trials"]]
    two = study(tmp_path, tasks=[TASK, tiny_task("generate")], methods=["zero-shot"], retain=(dataclasses.replace(OTHER, name="third"),))
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == ["colours", "homes"] and two.best("homes").changes
    with pytest.raises(UserError, match="Name one of the study's tasks"):
        two.best()
    study(tmp_path, methods=["zero-shot"])
    assert (tmp_path / "best" / "specialist.json").exists() and not (tmp_path / "best" / "homes").exists()


def test_failures_are_told_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    names = [method(tmp_path, "peeking", "len(task.test)"), method(tmp_path, "bursting", "raise Diverged('training: it burst.')")]
    found = study(tmp_path / "out", methods=[*names, "few-shot"])
    assert found.report["trials"] == {"planned": 4, "done": 2, "failed": 2, "not_applicable": 0, "not_run": 0}
    reasons = {f["method"]: f["reason"] for f in found.report["failures"]}
    assert "sealed" in reasons[names[0]] and reasons[names[1]] == "training: it burst."
    assert leavings(tmp_path / "out") == []


@pytest.mark.slow
def test_nothing_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = study(tmp_path / "out", methods=["few-shot"])
    assert (found.out / "best").exists()
    for card in found.out.glob("trials/*/trial.json"):
        facts = json.loads(card.read_text())
        card.write_text(json.dumps(facts | {"status": "failed", "error": "made up"}))
    again = finish(found.out)
    assert again.report["recommendation"]["headline"].startswith("No result") and not (found.out / "best").exists()


@pytest.mark.slow
def test_report_of_a_study_that_has_just_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_execute", lambda *_: None)
    report = study(tmp_path).report
    assert report["trials"]["not_run"] == 3 and report["recommendation"]["headline"].startswith("No result")


# --- refused before anything is written --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"methods": ["lorra"]}, "unknown method 'lorra'"),
        ({"seeds": 0}, "seeds must be at least 1; got 0"),
        ({"seeds": []}, "seeds: none is given"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"budget": "5 bananas"}, "budget: cannot read '5 bananas'"),
        ({"precision": "fp8"}, "precision: unknown value 'fp8'"),
        ({"base": "/nowhere"}, "no such folder"),
        ({"tasks": "/nowhere.csv"}, "no such file or folder"),
        ({"tasks": [TASK, OTHER], "ood": "x.csv"}, "one file cannot be the shifted twin of 2 tasks"),
        ({"ray": "nobody"}, "write HOST:PORT"),
        pytest.param({"ray": "127.0.0.1:1"}, "nobody answers there", marks=pytest.mark.slow),
    ],
)
def test_refused_and_nothing_written(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    if "ray" in more:
        pytest.importorskip("ray")
    with pytest.raises(UserError, match=re.escape(message)):
        study(tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = study(tmp_path / "out", dry_run=True, quiet=False)
    seen = capsys.readouterr().err
    assert "trials     3 to run" in seen and "estimate   about" in seen and "few-shot, lora" in seen
    assert not (tmp_path / "out").exists() and found.report == {} and len(found.plan["trials"]) == 3


@pytest.mark.parametrize("name", ["report.json", "best", "plan.json"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name == "best" else (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"holds a {name} that is no study's of metier"):
        study(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_other_files_beside_a_study_stay(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("mine")
    (tmp_path / ".hidden.part").write_text("mine")
    study(tmp_path, methods=["zero-shot"])
    assert (tmp_path / "work" / "thesis.txt").read_text() == "mine" and (tmp_path / ".hidden.part").exists()


def test_two_studies_at_once(tmp_path: Path) -> None:
    study(tmp_path, methods=["zero-shot"])
    before = (tmp_path / "plan.json").stat().st_mtime_ns
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another study is writing here"):
            study(tmp_path, methods=["few-shot"])
    assert (tmp_path / "plan.json").stat().st_mtime_ns == before


def test_leavings_of_a_killed_study_are_swept(tmp_path: Path) -> None:
    for name in ("trials/.abc.part", "trials/.abc.gone-1.x.part", "trials/.work/abc", ".best.gone-1.x.part"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".report.json.gone-1.x.part").write_text("{")
    (tmp_path / "plan.json").write_text('{"trials": [], "precision": "float32", "base": {"fingerprint": ""}}')
    study(tmp_path, methods=["zero-shot"])
    assert leavings(tmp_path) == []


@pytest.mark.slow
def test_precision_of_an_interrupted_study_is_kept(tmp_path: Path) -> None:
    study(tmp_path, precision="bf16", methods=["zero-shot"])
    assert (
        study(tmp_path, precision=None, methods=["calibrate"]).report["tasks"]
        and json.loads((tmp_path / "plan.json").read_text())["precision"] == "bf16"
    )


# --- files ---------------------------------------------------------------------------------------------------------------
def test_own_files_with_a_shifted_twin_and_warnings_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table(Path("tickets.csv"), [*rows(), rows()[0]])
    table(Path("newer.csv"), rows(8, "{colour}, said the {thing}{number}"))
    lines(Path("other.jsonl"), [{"question": f"what is {i}?", "answer": str(i)} for i in range(12)])
    found = study(Path("out"), tasks="tickets.csv", ood="newer.csv", retain=("other.jsonl",), methods=["calibrate"], quiet=False)
    task = found.report["tasks"][0]
    assert task["n_ood"] == 8 and all(m["ood"] for m in task["methods"]) and found.report["retain"] == ["other"]
    said = [r.getMessage() for r in caplog.records]
    assert sum("repeat" in s or "also occur" in s for s in said) == 1, said
    assert "repeat" not in capsys.readouterr().err, "said by the log and by the announcement"


def test_adapt_shares_the_budget_among_what_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float, Any]] = []
    real = comparing.make

    def make(found: Any, settings: Any, start: Any, task: Any, run: Any) -> Any:
        seen.append((found.name, run.budget.amount, run.workdir and run.workdir.name))
        return real(found, settings, start, task, run)

    monkeypatch.setattr(comparing, "make", make)
    adapt("few-shot+bitfit+lora", TASK, tiny_causal(), budget="96ex", run=metier.Run(budget=metier.Budget(96), workdir=Path("nowhere")))
    assert [s[:2] for s in seen] == [("few-shot", 48), ("bitfit", 48), ("lora", 48)] and len({s[2] for s in seen}) == 3
    seen.clear()
    adapt("few-shot+lora", TASK, tiny_causal(), budget="96ex")
    assert [s[:2] for s in seen] == [("few-shot", 96), ("lora", 96)]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adapt("lorra", TASK, tiny_causal()), "unknown method"),
        (lambda: adapt("lora", TASK, tiny_causal(), settings={"lora": {"rnk": 1}}), "unknown setting 'rnk'"),
        (lambda: adapt("self-consistency", TASK, tiny_causal()), "works on tasks of kind generate"),
    ],
)
def test_adapt_refuses(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_a_retained_table_is_asked_whole(tmp_path: Path) -> None:
    other = table(tmp_path / "other.csv", rows(30))
    found = study(tmp_path / "out", methods=["zero-shot"], retain=(other,))
    place = next((found.out / "trials").glob("*/records-retain-other.parquet"))
    assert len(read_records(place)) == 30


@pytest.mark.slow
def test_accumulated_steps_learn_the_same(tmp_path: Path) -> None:
    whole, parts = (study(tmp_path / str(n), methods=["full"], retain=(), accumulate=n, settings={"full": {"lr": 1e-3}}) for n in (1, 3))
    first, second = (r.report["tasks"][0]["methods"][0] for r in (whole, parts))
    assert first["trials"][0]["key"] != second["trials"][0]["key"]
    assert first["calibration"]["ece"] == pytest.approx(second["calibration"]["ece"], abs=1e-4)
