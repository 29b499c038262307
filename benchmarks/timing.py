"""Timing for benchmarks: arms alternate in one run, so that a machine that drifts does so for all; medians and paired ratios."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

RESULTS = Path(__file__).parent / "results"


def alternate(
    arms: Mapping[str, Callable[[], Any]], rounds: int, *, warm: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each arm in each round; every round runs all arms once. `time.process_time` is the clock for machines shared with others."""
    for _ in range(warm):
        for run in arms.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, run in arms.items():
            started = clock()
            run()
            seconds[name].append(clock() - started)
    return seconds


def ratio(a: list[float], b: list[float]) -> float:
    """Median of a's time over b's, round by round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def write(name: str, facts: dict[str, Any]) -> None:
    """Store a result with the machine it was measured on, and print it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    ).stdout.strip()
    where = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({**facts, "machine": where | {"commit": commit, "date": time.strftime("%Y-%m-%d")}}, indent=1)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
