"""The command line as a person would type it, run in this process."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.study.making import rows, table

from metier.cli import main as cli


class Seen(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Seen]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command line in an empty folder that holds a CSV of 60 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    table(Path("tickets.csv"), rows())

    def command(*words: object) -> Seen:
        monkeypatch.setattr(sys, "argv", ["metier", *map(str, words)])
        capfd.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
            cli.main()
        seen = capfd.readouterr()
        return Seen(int(end.value.code or 0), seen.out, seen.err)

    log = logging.getLogger("metier")
    before = list(log.handlers), log.propagate
    kept = dict(os.environ)
    yield command
    log.handlers[:], log.propagate = before
    os.environ.clear()
    os.environ.update(kept)
