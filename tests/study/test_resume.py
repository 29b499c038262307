"""Safe to kill: a study killed at any moment and run again ends as one that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.study.making import base_folder, command, environment, essence, leavings, metier, rows, table

WORDS = (
    "compare",
    "tickets.csv",
    "--methods",
    "few-shot,bitfit,few-shot+lora",
    "--seeds",
    1,
    "--budget",
    "120ex",
    "--precision",
    "float32",
    "-o",
    "out",
)


def words() -> tuple[Any, ...]:
    return (*WORDS, "-b", base_folder())


def begun(place: Path, *more: Any) -> subprocess.Popen[str]:
    """The study in a group of processes of its own, as a terminal starts it."""
    with (place / "said").open("w") as said:
        return subprocess.Popen(
            command(*words(), *more), cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=said, text=True, process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def gone(group: int) -> bool:
    """Whether no process of the group is alive, after at most half a minute."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        alive = [p for p in psutil.process_iter() if _group(p) == group]
        if not alive:
            return True
        time.sleep(0.2)
    print([(p.pid, p.cmdline(), p.status()) for p in alive])
    return False


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None


def wait_for(process: subprocess.Popen[str], place: Path, text: str) -> bool:
    """Wait until it has said `text`. False where it ended before."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if text in (place / "said").read_text():
            return True
        if process.poll() is not None:
            return text in (place / "said").read_text()
        time.sleep(0.02)
    raise TimeoutError(text)


def nodes(place: Path) -> dict[str, tuple[int, int]]:
    return {p.parent.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in place.glob("out/trials/*/trial.json")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of the study that was left alone."""
    place = tmp_path_factory.mktemp("whole")
    table(place / "tickets.csv", rows())
    seen = metier(*words(), "--json", cwd=place)
    assert seen.returncode == 0 and seen.stderr == "", seen.stderr
    report: dict[str, Any] = json.loads(seen.stdout)
    return report


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path, whole: dict[str, Any]) -> None:
    table(tmp_path / "tickets.csv", rows())
    rng, before = random.Random(4), {}
    for _ in range(3):
        process = begun(tmp_path)
        if wait_for(process, tmp_path, "estimate "):
            time.sleep(rng.uniform(0, 2.5))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        now = nodes(tmp_path)
        assert {k: now[k] for k in before} == before, "a finished trial was repeated"
        before = now
    seen = metier(*words(), "--json", cwd=tmp_path)
    assert seen.returncode == 0, seen.stderr
    now = nodes(tmp_path)
    assert {k: now[k] for k in before} == before, "a finished trial was repeated"
    assert essence(json.loads(seen.stdout)) == essence(whole)
    assert leavings(tmp_path / "out") == [] and (tmp_path / "out/best/specialist.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_by_ctrl_c(tmp_path: Path, whole: dict[str, Any], workers: int) -> None:
    table(tmp_path / "tickets.csv", rows())
    process = begun(tmp_path, "--workers", workers)
    assert wait_for(process, tmp_path, "zero-shot seed 0")
    os.killpg(process.pid, signal.SIGINT)  # a terminal tells every process of the group
    assert process.wait(60) == 130
    said = (tmp_path / "said").read_text()
    assert said.endswith("stopped. Nothing half-written is left; run the same command again to go on.\n"), said
    assert "Traceback" not in said and "leaked" not in said and leavings(tmp_path / "out") in ([], ["trials/.work"])
    before = nodes(tmp_path)
    assert 1 <= len(before) < 4
    assert gone(process.pid), "a worker lives on"
    if workers == 1:
        seen = metier(*words(), "--json", cwd=tmp_path)
        assert seen.returncode == 0 and essence(json.loads(seen.stdout)) == essence(whole)
        assert {k: nodes(tmp_path)[k] for k in before} == before


@pytest.mark.slow
def test_killed_with_workers_leaves_no_orphans(tmp_path: Path) -> None:
    table(tmp_path / "tickets.csv", rows())
    process = begun(tmp_path, "--workers", 2)
    assert wait_for(process, tmp_path, "zero-shot seed 0")
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert gone(process.pid), "a worker lives on"
