"""Bad input: one clear error naming file, line or field, the value and the remedy; exit code 2; nothing written. (Section 8 of the spine.)"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.study.making import base_folder, leavings, lines, metier, rows, table

OPTIONS = ("--methods", "zero-shot", "--seeds", "1", "-o", "out")


def malformed() -> str:
    whole = lines(Path("rows.jsonl"), [{"text": f"the hat is {i}", "label": "warm" if i % 2 else "cold"} for i in range(5000)])
    held = whole.read_text().splitlines(keepends=True)
    held[4710] = '{"text": "the hat is, "label": "warm"}\n'
    whole.write_text("".join(held))
    return "rows.jsonl"


def folder(train: list[tuple[str, str]], test: list[tuple[str, str]]) -> str:
    Path("data").mkdir()
    table(Path("data/train.csv"), train)
    table(Path("data/test.csv"), test)
    return "data"


def with_row(*row: str) -> str:
    return str(table(Path("rows.csv"), [*rows()[:40], row, *rows()[40:]]))


BAD_TASKS: dict[str, tuple[Callable[[], str], str]] = {
    "missing file": (lambda: "nowhere.csv", r"nowhere\.csv: no such file or folder"),
    "malformed line": (malformed, r"rows\.jsonl:4711: not valid JSON .*the hat is, .*Each line must be one JSON object"),
    "label that train lacks": (
        lambda: folder(rows()[:40], [*rows()[40:], ("the hat is odd", "lukewarm")]),
        r"task data, test:22: test has the label 'lukewarm' \(1 rows\) that train lacks; known: 'cold', 'warm'\. .*add examples",
    ),
    "empty text": (lambda: with_row("  ", "warm"), r"row[s:].*4[12].*text is empty\. Fill it in or remove the row"),
    "class with one example": (
        lambda: folder([*rows()[:40], ("the hat is odd", "lukewarm")], rows()[40:]),
        r"the class 'lukewarm' has a single example in train\. Add examples, remove it",
    ),
    "leak": (lambda: folder(rows()[:40], rows()[30:]), r"of 30 test rows also occur in train .*--allow-leak"),
    "prompt longer than the context": (
        lambda: with_row("the hat is " + "so " * 300 + "red", "warm"),
        r"prompt of \d+ tokens .* exceed the 256 that .*--truncate",
    ),
    "page instead of data": (lambda: str(_write("rows.jsonl", "<!doctype html><html></html>")), r"rows\.jsonl"),
    "binary instead of data": (lambda: str(_write("rows.csv", b"\x80\x04\x95\x00\x00")), r"rows\.csv"),
    "empty file": (lambda: str(_write("rows.csv", "")), r"rows\.csv"),
}


def _write(name: str, content: str | bytes) -> Path:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Path(name)


@pytest.mark.parametrize("what", BAD_TASKS)
def test_bad_task(run: Run, what: str) -> None:
    make, message = BAD_TASKS[what]
    name = make()
    before = sorted(map(str, Path().rglob("*")))
    for verb in (("compare", name, *OPTIONS), ("tune", "bitfit", name, "-o", "out")):
        seen = run(*verb, "-b", base_folder())
        assert seen.code == 2 and re.search(message, " ".join(seen.err.split())), seen.err
        assert seen.err.startswith("error: ") and "Traceback" not in seen.err and seen.out == ""
        assert sorted(map(str, Path().rglob("*"))) == before, "something was written"


@pytest.mark.slow
def test_leak_may_be_allowed(run: Run) -> None:
    name = folder(rows()[:40], rows()[30:])
    seen = run("compare", name, *OPTIONS, "-b", base_folder(), "--allow-leak")
    assert seen.code == 0 and len(re.findall("of 30 test rows also occur in train", seen.err)) == 1, seen.err
    report = json.loads(Path("out/report.json").read_text())
    assert any("of 30 test rows" in w for w in report["tasks"][0]["warnings"])


@pytest.mark.slow
def test_long_prompts_may_be_cut(run: Run) -> None:
    name = with_row("the hat is " + "so " * 300 + "red", "warm")
    seen = run("compare", name, "--methods", "few-shot", "--seeds", 1, "-o", "out", "-b", base_folder(), "--truncate", "--budget", "24ex")
    assert seen.code == 0 and "1 of its texts are longer than the 256 tokens" in seen.err


# --- models --------------------------------------------------------------------------------------------------------------
def copied(*without: str) -> Path:
    place = Path("model")
    shutil.copytree(base_folder(), place)
    for pattern in without:
        for file in place.glob(pattern):
            file.unlink()
    return place


def pickled() -> str:
    place = copied("*.safetensors")
    (place / "pytorch_model.bin").write_bytes(pickle.dumps({"evil": 1}))
    return str(place)


def damaged() -> str:
    place = copied()
    file = place / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    return str(place)


BAD_BASES: dict[str, tuple[Callable[[], str], str]] = {
    "no such folder": (lambda: "./nowhere", "no such folder"),
    "no such embedded base": (lambda: "metier-tny", "unknown embedded base 'metier-tny'"),
    "HTML": (lambda: str(_write("model.html", "<html><body>404</body></html>")), "this is an HTML page, not a model"),
    "HTML named as weights": (lambda: str(_write("model.safetensors", "<!DOCTYPE html>")), "this is an HTML page, not a model"),
    "pickle": (lambda: str(_write("model.bin", pickle.dumps({}))), "this is a pickle, not a model"),
    "pickled weights": (pickled, "pytorch_model.bin: pickled weights can run code and are refused; convert them to safetensors"),
    "no tokenizer": (lambda: str(copied("*token*", "*vocab*")), "no tokenizer files found|no usable tokenizer"),
    "no weights": (lambda: str(copied("*.safetensors")), "no .*safetensors"),
    "damaged weights": (damaged, "weights are damaged"),
    "no configuration": (lambda: str(copied("config.json")), "no readable config.json"),
    "a file of text": (lambda: "tickets.csv", "a single file, not a model"),
}


@pytest.mark.parametrize("what", BAD_BASES)
def test_bad_base(run: Run, what: str) -> None:
    make, message = BAD_BASES[what]
    name = make()
    for words in (("compare", "tickets.csv", *OPTIONS, "-b", name), ("generate", name, "Once upon a time")):
        seen = run(*words)
        assert seen.code == 2 and re.search(message, " ".join(seen.err.split())), seen.err
        assert "Traceback" not in seen.err and not Path("out").exists()


@pytest.mark.slow
def test_base_without_a_pad_token_is_handled(run: Run) -> None:
    place = copied()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (place / name).exists():
            facts = json.loads((place / name).read_text())
            facts.pop("pad_token", None)
            (place / name).write_text(json.dumps(facts))
    seen = run("compare", "tickets.csv", "--methods", "bitfit", "--seeds", 1, "--budget", "24ex", "-o", "out", "-b", str(place))
    assert seen.code == 0, seen.err


@pytest.mark.slow
def test_base_and_change_that_do_not_match(run: Run) -> None:
    from tests.tiny import tiny_causal

    assert run("tune", "bitfit", "tickets.csv", "-b", base_folder(), "--budget", "24ex", "-o", "s").code == 0
    facts = json.loads(Path("s/specialist.json").read_text())
    Path("s/specialist.json").write_text(json.dumps(facts | {"base": tiny_causal(seed=1).path, "path": tiny_causal(seed=1).path}))
    seen = run("evaluate", "s", "tickets.csv")
    assert seen.code == 2 and re.search(r"made from base [0-9a-f]{16}, not [0-9a-f]{16}", seen.err)


# --- places --------------------------------------------------------------------------------------------------------------
def test_out_below_a_file(run: Run) -> None:
    for words in (("compare", "tickets.csv", *OPTIONS[:-1], "tickets.csv/out"), ("tune", "bitfit", "tickets.csv", "-o", "tickets.csv/out")):
        seen = run(*words, "-b", base_folder())
        assert seen.code == 2 and "tickets.csv is a file" in seen.err


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/sys").exists(), reason="nothing is unwritable here")
def test_unwritable_folder(run: Run) -> None:
    place = "/proc/sys/metier/out" if os.geteuid() == 0 else "/usr/metier-out"
    for words in (("compare", "tickets.csv", *OPTIONS[:-1], place), ("tune", "bitfit", "tickets.csv", "-o", place)):
        seen = run(*words, "-b", base_folder())
        assert seen.code == 2 and re.search("no permission to write|nothing can be written|read-only", seen.err), seen.err


def test_disk_too_full_for_what_is_planned(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    used = type("Usage", (), {"free": 1000, "total": 1000, "used": 0})()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: used)
    seen = run("compare", "tickets.csv", *OPTIONS, "-b", base_folder())
    assert seen.code == 2 and "free on this disk" in seen.err and not Path("out").exists()


@pytest.mark.slow
def test_full_disk(tmp_path: Path) -> None:
    """A disk of 200 KB that fills in the middle: one error, and nothing half-written; what a search has finished is kept for the next run."""
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        table(tmp_path / "tickets.csv", rows())
        words = ("compare", "tickets.csv", "--methods", "full", "--seeds", 1, "--budget", "24ex", "-b", base_folder(), "-o", disk / "out")
        seen = metier(*words, cwd=tmp_path)
        assert seen.returncode == 2 and re.search("disk is full|free on this disk", seen.stderr), seen.stderr
        assert "Traceback" not in seen.stderr and set(leavings(disk / "out")) <= {"trials/.work"}
        for kept in (disk / "out").rglob("*-search.json"):
            assert json.loads(kept.read_text())
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.slow
def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    table(tmp_path / "tickets.csv", rows())
    for words, message in (
        (("compare", "tickts.csv"), "error: tickts.csv: no such file or folder. Did you mean 'tickets.csv'?"),
        (("tune", "lra", "tickets.csv"), "error: unknown method 'lra'. Did you mean 'lora'?"),
        (("evaluate", "nowhere/at/all", "tickets.csv"), "error: base nowhere/at/all: no such folder."),
    ):
        seen = metier(*words, cwd=tmp_path)
        assert seen.returncode == 2 and seen.stderr.startswith(message) and seen.stdout == "" and len(seen.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["tickets.csv"]
