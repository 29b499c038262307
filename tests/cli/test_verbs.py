"""Every verb as a person would type it, in this process: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run
from tests.study.making import base_folder, leavings, method, rows, table

from metier.cli import main as cli

COMPARE = ("compare", "tickets.csv", "--methods", "few-shot,lora", "--seeds", 1, "--budget", "60ex", "--precision", "float32", "-o", "out")


@pytest.mark.slow
def test_compare_report_and_best(run: Run) -> None:
    table(Path("newer.csv"), rows(8, "{colour}, said the {thing}{number}"))
    seen = run(*COMPARE, "--base", base_folder(), "--ood", "newer.csv", "--set", "rank=4", "--set", "few-shot.pick=random")
    assert seen.code == 0, seen.err
    assert all(
        word in seen.out for word in ("tickets · accuracy", "zero-shot", "few-shot", "lora", "report  out/report.html", "best    out/best")
    )
    assert re.search(r"estimate   about \S+ \w+, memory about \S+ MB, disk up to \S+ MB in out", seen.err), seen.err
    assert "8 ood" in seen.err and "warning" not in seen.err.lower() and "comparing 100 %" in seen.err and "left)" in seen.err
    assert leavings(Path("out")) == []
    cards = [json.loads(p.read_text()) for p in Path("out").glob("trials/*/trial.json")]
    assert {c["settings"]["lora"]["rank"] for c in cards if c["method"] == "lora"} == {4}
    again = run(*COMPARE, "--base", base_folder(), "--ood", "newer.csv", "--set", "lora.rank=4", "--set", "few-shot.pick=random", "--json")
    assert again.code == 0 and again.err == "" and json.loads(again.out)["trials"]["done"] == 3
    shown = run("report", "out")
    assert shown.code == 0 and shown.out == seen.out and shown.err == ""
    assert json.loads(run("report", "out", "--json").out)["tasks"] == json.loads(again.out)["tasks"]
    score = json.loads(run("evaluate", "out/best", "tickets.csv", "--json").out)
    best = json.loads(again.out)["recommendation"]["method"]
    rows_ = json.loads(again.out)["tasks"][0]["methods"]
    assert score["score"] == next(r for r in rows_ if r["method"] == best)["score"]["value"] and score["interval"][0] <= score["score"]
    wrong = run("evaluate", "out", "tickets.csv")
    assert wrong.code == 2 and "is a study's folder. Name the specialist in it: out/best." in wrong.err


@pytest.mark.slow
def test_failed_trials_end_with_one(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = method(tmp_path, "peeking", "len(task.test)")
    seen = run("compare", "tickets.csv", "-b", base_folder(), "--methods", name, "--seeds", 1, "-o", "out")
    assert seen.code == 1 and "the test split is sealed" in seen.err and "Traceback" not in seen.err
    assert f"failed tickets {name} seed 0: the test split is sealed" in " ".join(seen.out.split())
    assert run("compare", "tickets.csv", "-b", base_folder(), "--methods", name, "--seeds", 1, "-o", "out", "--json").code == 1


def test_dry_run(run: Run) -> None:
    seen = run(*COMPARE, "--base", base_folder(), "--dry-run")
    assert seen.code == 0 and "trials     3 to run" in seen.err and seen.out == "" and not Path("out").exists()
    plan = json.loads(run(*COMPARE, "--base", base_folder(), "--dry-run", "--json").out)
    assert plan["methods"] == ["zero-shot", "few-shot", "lora"] and not Path("out").exists()


def test_tune_evaluate_generate(run: Run) -> None:
    words = (
        "tune",
        "few-shot+lora",
        "tickets.csv",
        "-b",
        base_folder(),
        "--budget",
        "60ex",
        "--rank",
        4,
        "--lr=1e-3",
        "--few-shot.shots",
        2,
    )
    seen = run(*words)
    assert seen.code == 0 and seen.out.startswith("saved specialist: few-shot+lora on tickets; ") and "loaded again" in seen.out
    assert "training in" in seen.err and "few-shot+lora on tickets 100 %" in seen.err and "warning" not in seen.err.lower()
    assert sorted(p.name for p in Path().iterdir()) == ["specialist", "tickets.csv"]
    facts = [json.loads(p.read_text())["provenance"] for p in sorted(Path("specialist").glob("*/change.json"))]
    assert len(facts) == 2
    assert (again := run(*words)).code == 2 and "holds a specialist already" in again.err
    forced = run(*words, "--force", "--json")
    assert forced.code == 0 and json.loads(forced.out)["reload_gap"] is not None
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("mine")
    assert (
        (spared := run(*words, "-o", "mine", "--force")).code == 2
        and "metier did not write" in spared.err
        and Path("mine/thesis.txt").exists()
    )

    shown = run("evaluate", "specialist", "tickets.csv", "--split", "dev", "--out", "records.parquet")
    assert (
        shown.code == 0
        and "tickets (dev, 12 examples): accuracy" in shown.out
        and "per answer" in shown.out
        and Path("records.parquet").exists()
    )
    assert run("evaluate", base_folder(), "tickets.csv", "--limit", 3).out.startswith("tickets (test, 3 examples)")
    told = run("generate", "specialist", "The red hat", "--max-new-tokens", 3, "--json")
    assert json.loads(told.out)["prompt"] == "The red hat"
    assert run("generate", "specialist", "The red hat", "--max-new-tokens", 3, "--task", "tickets.csv").code == 0
    assert run("generate", "specialist", "x " * 400).code == 2 and run("generate", "specialist", "x " * 400, "--truncate").code == 0


def test_generate_reads_lines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert len(run("generate", base_folder(), "--max-new-tokens", 1, "--json").out.splitlines()) == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "the prompt is empty" in run("generate", base_folder()).err


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("--version",), ("metier ",)),
        (("--help",), ("compare", "Give a pretrained model a trade")),
        (("methods",), ("lora", "few-shot")),
        (("methods", "prompt"), ("few-shot",)),
        (("methods", "show", "lora"), ("--rank (int, default 8)", "Searched    lr in")),
        (("worlds",), ("facts", "instructions", "classification")),
        (("worlds", "show", "facts"), ("--- ", "train")),
    ],
)
def test_lists(run: Run, words: tuple[str, ...], texts: tuple[str, ...]) -> None:
    seen = run(*words)
    assert seen.code == 0 and seen.err == "" and all(t in seen.out for t in texts)


@pytest.mark.parametrize("words", [("methods",), ("methods", "show", "lora"), ("worlds",)])
def test_lists_as_json(run: Run, words: tuple[str, ...]) -> None:
    assert json.loads(run(*words, "--json").out)


def test_worlds_make(run: Run) -> None:
    assert run("worlds", "make", "instructions", "-o", "made", "--size", 0.1).code == 0 and list(Path("made").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Usage: metier"),
        (("comparre",), "Did you mean 'compare'? See `metier --help`."),
        (("compare",), "Missing argument 'tasks'. See `metier compare --help`."),
        (("compare", "tickets.csv", "--bse", "x"), "No such option: --bse"),
        (("compare", "tickets.csv", "--seeds", "many"), "Invalid value for '--seeds'"),
        (("compare", "tickts.csv"), "tickts.csv: no such file or folder. Did you mean 'tickets.csv'?"),
        (("compare", "tickets.csv", "--methods", "lorra"), "unknown method 'lorra'. Did you mean 'lora'?"),
        (("compare", "tickets.csv", "--set", "lora.rnk=4"), "method lora: unknown setting 'rnk'. Did you mean 'rank'?"),
        (("compare", "tickets.csv", "--set", "rnk=4"), "no method has this setting. Did you mean 'rank'?"),
        (("compare", "tickets.csv", "--set", "lr=4"), "all have it. Write for instance prompt-tuning.lr=4."),
        (("compare", "tickets.csv", "--set", "rank"), "write METHOD.SETTING=VALUE"),
        (("tune", "lora", "tickets.csv", "--rnk", "4"), "unknown flag --rnk. Did you mean 'rank'?"),
        (("tune", "lora", "tickets.csv", "--rank"), "flag --rank needs a value"),
        (("tune", "lora", "tickets.csv", "--rank", "abc"), "method lora: rank: must be a number; got 'abc'"),
        (("tune", "lora", "tickets.csv", "16"), "unexpected argument '16'"),
        (("tune", "bitfit+lora", "tickets.csv", "--lr", "1"), "bitfit and lora both have it. Write --bitfit.lr or --lora.lr."),
        (("tune", "lora", "tickets.csv", "--bitfit.lr", "1"), "'bitfit' is not among the methods lora"),
        (("tune", "lra", "tickets.csv"), "unknown method 'lra'"),
        (("evaluate", "nowhere/at/all", "tickets.csv"), "no such folder"),
        (("evaluate", "metier-tiny", "tickets.csv", "--split", "tets"), "unknown value 'tets'. Did you mean 'test'?"),
        (("report", "nowhere"), "Is nowhere a study's folder"),
        (("methods", "show"), "name a method"),
        (("methods", "pormpt"), "Did you mean 'prompt'?"),
        (("worlds", "show", "fatcs"), "Did you mean 'facts'?"),
        (("worlds", "paint"), "write `metier worlds`"),
    ],
)
def test_slips_are_answered(run: Run, words: tuple[str, ...], message: str) -> None:
    seen = run(*words)
    text = " ".join(seen.err.split())
    assert seen.code == 2 and message in text and "Traceback" not in text and seen.out == ""
    assert sorted(p.name for p in Path().iterdir()) == ["tickets.csv"], "something was written"


def test_interrupt_and_failure_codes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from metier.errors import Diverged
    from metier.study import plan

    for error, code, text in (
        (KeyboardInterrupt(), 130, "run the same command again to go on"),
        (Diverged("training: it burst."), 1, "failed: training: it burst."),
        (MemoryError(), 1, "failed: out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "failed: out of memory."),
    ):

        def stop(*_: Any, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(plan, "chosen_methods", stop)
        seen = run("tune", "lora", "tickets.csv")
        assert seen.code == code and text in seen.err and "Traceback" not in seen.err


def test_bug_shows_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from metier.study import plan

    monkeypatch.setattr(plan, "chosen_methods", lambda *_: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["metier", "tune", "lora", "tickets.csv"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.slow
def test_specialist_knows_how_its_base_was_loaded(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(base_folder()).parent)
    words = (
        "tune",
        "bitfit",
        tmp_path / "tickets.csv",
        "-b",
        f"./{Path(base_folder()).name}",
        "--dtype",
        "bfloat16",
        "--budget",
        "24ex",
        "-o",
        tmp_path / "s",
    )
    assert run(*words).code == 0
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", "s", "tickets.csv").code == 0
    assert "Leave --family, --dtype and --chat out" in run("evaluate", "s", "tickets.csv", "--dtype", "bfloat16").err


@pytest.mark.slow
def test_interrupted_tune_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from metier.train import loop as training

    words = ("tune", "bitfit", "tickets.csv", "-b", base_folder(), "--budget", "240ex", "--precision", "float32")
    assert run(*words, "-o", "whole").code == 0
    monkeypatch.setattr(training.checkpoint, "EVERY_SECONDS", -1.0)  # at every step
    first, steps = training._Loop._one, []

    def stopping(self: Any, planned: int) -> float:
        if self.step == 3:
            raise KeyboardInterrupt
        return float(first(self, planned))

    monkeypatch.setattr(training._Loop, "_one", stopping)
    seen = run(*words, "-o", "s")
    assert seen.code == 130 and "run the same command again" in seen.err and not Path("s").exists()

    def counting(self: Any, planned: int) -> float:
        steps.append(self.step)
        return float(first(self, planned))

    monkeypatch.setattr(training._Loop, "_one", counting)
    assert run(*words, "-o", "s").code == 0 and steps[0] == 3
    assert sorted(p.name for p in Path().iterdir()) == ["s", "tickets.csv", "whole"]
    both = [next(Path(n).glob("*/change.safetensors")).read_bytes() for n in ("s", "whole")]
    assert both[0] == both[1]
