"""How fast the worlds draw examples and text, and how much memory writing a large one takes.

python benchmarks/worlds.py [--seconds 0.5] [--memory-world arithmetic] [--world NAME ...]

Times are of the process, not of the wall, because the machine is shared; the first example of a stream, which pays for
the stream's preparation, is drawn before the clock starts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timing import write

from metier.worlds import WORLDS, world

PEAK = """
import sys
from pathlib import Path
from metier.worlds import world
from metier.worlds.write import amount, write_world
made = world(sys.argv[1], size=float(sys.argv[2]))
write_world(made, Path(sys.argv[3]))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(amount(made), peak)
"""


def drawn(stream: Iterator[Any], seconds: float) -> tuple[list[Any], float]:
    """(the last items of a stream that is read for so many seconds of the process, items a second)."""
    last, count, passed, started = [next(stream)], 0, 0.0, time.process_time()
    while passed < seconds and (batch := list(itertools.islice(stream, 50))):
        last = batch
        count += len(batch)
        passed = time.process_time() - started
    return last, count / max(passed, 1e-9)


def tasks(name: str, seconds: float) -> list[dict[str, Any]]:
    """Examples a second of every task, from its train split (its first split where it has none)."""
    rows = []
    for key, sheet in world(name).sheets().items():
        split = "train" if "train" in sheet.sizes else next(iter(sheet.sizes))
        last, rate = drawn(sheet.rows(split), seconds)
        characters = statistics.mean(len(sheet.task.prompt(row).text()) for row in last)
        rows.append({"world": name, "task": key, "examples_per_second": round(rate), "prompt_characters": round(characters)})
    return rows


def corpus(name: str, seconds: float) -> dict[str, Any]:
    """Documents and bytes a second of the text to pretrain on."""
    last, rate = drawn(world(name).corpus(), seconds)
    size = statistics.mean(len(text.encode()) for text in last)
    return {"world": name, "documents_per_second": round(rate), "megabytes_per_second": round(rate * size / 1e6, 2)}


def memory(name: str) -> dict[str, Any]:
    """Peak resident memory of a process that writes the world at size 1, and at size 50."""
    told: dict[str, Any] = {"world": name}
    peaks = []
    for size in (1, 50):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", PEAK, name, str(size), str(Path(folder) / "out")]
            rows, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        peaks.append(int(peak) / 1024)
        told |= {f"rows_at_size_{size}": int(rows), f"peak_megabytes_at_size_{size}": round(peaks[-1], 1)}
    return told | {"growth_megabytes": round(peaks[1] - peaks[0], 1)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="of the process, for each task and each corpus")
    parser.add_argument("--memory-world", default="arithmetic")
    parser.add_argument("--world", action="append", help="only this world (may be repeated)")
    a = parser.parse_args()
    names = a.world or list(WORLDS)
    write(
        "worlds",
        {
            "tasks": [row for name in names for row in tasks(name, a.seconds)],
            "corpora": [corpus(name, a.seconds) for name in names],
            "writing": memory(a.memory_world),
        },
    )


if __name__ == "__main__":
    main()
