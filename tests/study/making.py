"""What tests of studies and of the command line share: small files, a base in a folder, and methods that misbehave."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.tiny import tiny_causal

REPOSITORY = Path(__file__).resolve().parents[2]
WARM, COLD = ("red", "orange", "golden"), ("blue", "green", "grey")
THINGS = ("hat", "coat", "boat", "lamp", "door", "bowl", "book", "kite", "ring", "cup")

METHOD = '''"""Made up: {what}, for a test.

Paper:       none.
"""

from dataclasses import dataclass

from metier.errors import Diverged
from metier.method import About
from metier.prompt.zero_shot import Instruction

ABOUT = About(place="in")


@dataclass(frozen=True)
class Settings:
    """Settings."""


def {name}(start, task, settings, run):
    """{what}."""
    {body}
    return Instruction("Say so.")
'''


def rows(count: int = 60, shape: str = "the {thing} is {colour}{number}") -> list[tuple[str, str]]:
    """(text, label) pairs, all different."""
    made = []
    for i in range(count):
        warm = i % 2 == 0
        colour = (WARM if warm else COLD)[i // 20 % 3]
        made.append((shape.format(thing=THINGS[i // 2 % 10], colour=colour, number="" if i < 60 else f" {i}"), "warm" if warm else "cold"))
    return made


def table(place: Path, pairs: Sequence[tuple[Any, ...]], header: Sequence[str] = ("text", "label")) -> Path:
    """A CSV file."""
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(pairs)
    return place


def lines(place: Path, values: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    place.write_text("".join(json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return place


def method(folder: Path, name: str, body: str) -> str:
    """A stranger's method in a module of its own in `folder`; gives its 'module:function'."""
    (folder / f"{name}_module.py").write_text(METHOD.format(name=name, what=name.replace("_", " "), body=body), encoding="utf-8")
    return f"{name}_module:{name}"


def base_folder() -> str:
    """Folder of the tiny causal base."""
    return tiny_causal().path


def environment(**more: str) -> dict[str, str]:
    """What a process of its own needs: our sources, one thread, no colours, no network."""
    path = os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"} | more


def command(*words: object) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-m", "metier.cli.main", *map(str, words)]


def metier(*words: object, cwd: Path, timeout: float = 240, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(command(*words), cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=timeout, check=False)


def leavings(out: Path) -> list[str]:
    """What must not be left behind: drafts, and checkpoints of trials that are done."""
    return sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.name.endswith((".part", ".old")) or p.name in (".work", "work"))


def essence(report: dict[str, Any]) -> Any:
    """A report without what no two runs share: times, memory, dates, the command, the order that time decides."""
    gone = {"created", "command", "estimate", "machine", "latency", "recommendation", "pareto"}

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in gone and "seconds" not in k and "peak" not in k}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(report)
