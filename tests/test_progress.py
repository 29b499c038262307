"""Progress: what is said while it runs, and when it will end."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from metier import progress


class Watch:
    """A clock that only moves when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_rest_is_scaled_by_what_was_seen(watch: Watch) -> None:
    clock = progress.Clock(10.0, None)
    assert clock.left() == ""  # nothing is known
    watch.now += 20
    clock.advance(2.0)
    assert clock.left() == "about 80 s left"
    watch.now += 60
    assert clock.left() == "about 20 s left"
    watch.now += 30
    assert clock.left() == "longer than expected"
    clock.advance(8.0)
    assert clock.left() == ""


def test_the_first_bit_of_work_says_nothing_of_the_rest(watch: Watch) -> None:
    clock = progress.Clock(1000.0, None)
    watch.now += 5
    clock.advance(1.0)  # 83 minutes, were it to go on like this
    assert clock.left() == ""
    clock.advance(99.0)
    assert clock.left() == "about 45 s left"


def test_rest_leans_on_what_was_expected_at_first(watch: Watch) -> None:
    clock = progress.Clock(10.0, 60.0)
    assert clock.left() == "about 60 s left"
    watch.now += 6
    clock.advance(1.0)  # as fast as expected
    assert clock.left() == "about 54 s left"
    watch.now += 60
    clock.advance(5.0)  # slower: the rest is scaled by it, and by a tenth of what was expected
    assert clock.left() == f"about {round(0.4 * (66 + 6) / (0.6 + 0.1) + 0.5)} s left"


def test_lines_where_there_is_no_terminal(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("comparing", 4.0, expected=40.0) as advance:
        advance(0.0, "too soon to be told")
        watch.now += 21
        advance(0.0, "still at it")
        advance(1.0, "one")
        advance(3.0, "all")
    lines = capsys.readouterr().err.splitlines()
    assert [line[:15] for line in lines] == ["comparing   0 %", "comparing  25 %", "comparing 100 %"]
    assert "still at it  (about 19 s left)" in lines[0] and "left" in lines[1] and "left" not in lines[2]


def test_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("comparing", 4.0, quiet=True) as advance:
        advance(4.0, "all")
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress.bar("comparing", 4.0, expected=40.0) as advance:
        advance(1.0, "[one] of many")
        progress.say("a remark")
    seen = capsys.readouterr().err
    assert "comparing: [one] of many" in seen and "a remark" in seen


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    log = logging.getLogger("metier")
    before = list(log.handlers), log.propagate
    monkeypatch.setattr(sys, "warnoptions", [])
    with warnings.catch_warnings(record=True) as heard:
        progress.for_terminal()
        progress.for_terminal()
        yield heard
    log.handlers[:], log.propagate = before


def warn(module: str, category: Any) -> None:
    exec(compile("import warnings; warnings.warn('heard', category)", module, "exec"), {"__name__": module, "category": category})


def test_our_warnings_are_heard_once_and_others_not(terminal: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("metier.task.load").warning("task %s: 3 rows repeat.", "tickets")
    logging.getLogger("metier.task.load").info("not for people")
    warn("peft.peft_model", FutureWarning)
    assert capsys.readouterr().err == "warning    task tickets: 3 rows repeat.\n"
    assert terminal == []
    warn("metier.model.base", UserWarning)
    assert [str(w.message) for w in terminal] == ["heard"]


def test_a_command_ends_without_looking_for_cycles_among_all_that_it_imported() -> None:
    code = (
        "import atexit, gc; from metier import progress; atexit.register(lambda: print(gc.get_freeze_count() > 0)); progress.for_terminal()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "True\n"
