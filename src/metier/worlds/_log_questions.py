"""Logs of invented services, and questions about them with their queries."""

from __future__ import annotations

import random
from typing import NamedTuple

from metier.worlds._logql import Line

APPS = "web shop mail auth search chat video bank map news store queue".split()
LEVELS = "error warn info debug".split()
HOSTS = "north south east west alpha beta gamma delta".split()
WORDS = "timeout login retry disk memory crash request token cache network backup upload".split()
FILLERS = "failed done slow again late found".split()
LABELS, NEW_LABELS = ("app", "level", "host"), ("service", "severity", "node")
ASKING = ("show {}", "give me {}", "i want to see {}", "find {}")


class Log(NamedTuple):
    """Lines in order of time, the names of their labels in one line, and the minute in which questions are asked."""

    lines: list[Line]
    labels: tuple[str, ...]
    now: int

    @property
    def names(self) -> str:
        """The label names, as a prompt shows them."""
        return ", ".join(self.labels)


class Asked(NamedTuple):
    """A question, its canonical query, and its level: 1 selects, 2 filters, 3 counts, 4 rates, 5 sums by a label."""

    question: str
    query: str
    level: int


def invent(rng: random.Random, *, unseen: bool = False, lines: int = 16) -> Log:
    """A log of an hour; with label names of their own if `unseen`."""
    labels = NEW_LABELS if unseen else LABELS
    pools = ([rng.choice(APPS) for _ in range(3)], LEVELS, [rng.choice(HOSTS) for _ in range(2)])
    rows = []
    for minute in sorted(1 + int(rng.random() * 60) for _ in range(lines)):
        values = [pool[int(rng.random() * len(pool))] for pool in pools]
        text = f"{WORDS[int(rng.random() * len(WORDS))]} {FILLERS[int(rng.random() * len(FILLERS))]}"
        rows.append(Line(minute, tuple(zip(labels, values, strict=True)), text))
    return Log(rows, labels, 60)


def ask(rng: random.Random, log: Log) -> Asked:
    """A question of a random level about the lines like one of the log's own."""
    line = log.lines[int(rng.random() * len(log.lines))]
    level = 1 + int(rng.random() * 5)
    stream, about = _stream(rng, line, filtered=level == 2 or (level > 2 and rng.random() < 0.5))
    minutes = 5 + int(rng.random() * 56)
    count, rate = f"count_over_time({stream} [{minutes}m])", f"rate({stream} [{minutes}m])"
    when = f"in the last {minutes} minutes"
    if level <= 2:
        return Asked(ASKING[int(rng.random() * len(ASKING))].format(about), stream, level)
    if level == 3:
        return Asked(f"how many were {about} {when}", count, level)
    if level == 4:
        return Asked(f"what was the rate of {about} {when}", rate, level)
    label = log.labels[int(rng.random() * len(log.labels))]
    if rng.random() < 0.5:
        return Asked(f"for each {label} how many were {about} {when}", f"sum by ({label}) ({count})", level)
    return Asked(f"for each {label} what was the rate of {about} {when}", f"sum by ({label}) ({rate})", level)


def _stream(rng: random.Random, line: Line, *, filtered: bool) -> tuple[str, str]:
    """A stream that holds the line, and its words; labels in the log's order."""
    chosen = [pair for pair in line.labels if rng.random() < 0.55] or [line.labels[0]]
    stream = "{" + ", ".join(f'{k}="{v}"' for k, v in chosen) + "}"
    about = "lines with " + " and ".join(f"{k} {v}" for k, v in chosen)
    if not filtered:
        return stream, about
    word = line.text.split()[0]
    if rng.random() < 0.6:
        return f'{stream} |= "{word}"', f"{about} that say {word}"
    other = next(w for w in WORDS[int(rng.random() * len(WORDS)) :] + WORDS if w != word)
    return f'{stream} != "{other}"', f"{about} that do not say {other}"
