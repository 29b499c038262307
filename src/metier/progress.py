"""Progress and remarks on standard error; results go to standard output."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator

Say = Callable[[str], None]
Advance = Callable[[float, str], None]
PRIOR = 0.1  # an expected time counts as much as what the first tenth of the work has shown
FIRST = 0.02  # of the work: what the first bit of it took says nothing of the rest
EVERY = 20.0  # seconds between lines on work that is not done yet, where there is no terminal


def say(text: str) -> None:
    """One line for the person at the terminal."""
    sys.stderr.write(text.rstrip() + "\n")
    sys.stderr.flush()


def spoken(seconds: float) -> str:
    """'40 s', '7 min', '2.5 h'."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def for_terminal() -> None:
    """Prepare a process of ours to talk to a person: our warnings as one line each, no warnings or progress bars of other libraries.

    What the user asks for with -W or PYTHONWARNINGS stays.
    """
    atexit.register(gc.freeze)  # no last look for cycles among the million objects that imports made: it takes a second and more
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    quiet["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait by spinning take the cores of other work: 7 times slower on a busy machine
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.filterwarnings("ignore")
        warnings.filterwarnings("default", module=r"metier(\.|$)", category=UserWarning)
    log = logging.getLogger("metier")
    if not any(isinstance(h, _Said) for h in log.handlers):
        log.addHandler(_Said(logging.WARNING))
        log.propagate = False


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(f"{record.levelname.lower():10s} {record.getMessage()}")


class Clock:
    """How long the rest will take: what has passed, scaled by what is done; at first leaning on what was expected."""

    def __init__(self, total: float, expected: float | None) -> None:
        self.total, self.expected, self.done, self.started = max(total, 1e-9), expected, 0.0, time.monotonic()
        self.ends = self.started + expected if expected is not None else None

    def advance(self, amount: float) -> None:
        """So much more is done."""
        self.done += amount
        share, passed = min(1.0, self.done / self.total), time.monotonic() - self.started
        prior = 0.0 if self.expected is None else PRIOR
        if amount > 0 and share + prior > 0:
            rest = (1 - share) * (passed + prior * (self.expected or 0.0)) / (share + prior)
            self.ends = time.monotonic() + rest

    def left(self) -> str:
        """'about 3 min left', or '' where nothing is known or all is done."""
        if self.expected is None and self.done < FIRST * self.total:
            return ""
        if self.ends is None or self.done >= self.total * (1 - 1e-6):
            return ""
        rest = self.ends - time.monotonic()
        return f"about {spoken(rest)} left" if rest >= 1 else "longer than expected"


@contextlib.contextmanager
def bar(title: str, total: float, *, quiet: bool = False, expected: float | None = None) -> Iterator[Advance]:
    """A progress bar with an estimated end; the block gets `advance(amount, what is being done)`. Plain lines where there is no terminal.

    expected: how many seconds all of it should take, where that is known beforehand.
    """
    clock = Clock(total, expected)
    if quiet:
        yield lambda amount, what: None
        return
    if not sys.stderr.isatty():
        said = time.monotonic()

        def tell(amount: float, what: str) -> None:
            nonlocal said
            clock.advance(amount)
            if amount > 0 or time.monotonic() - said > EVERY:
                said, rest = time.monotonic(), clock.left()
                say(f"{title} {100 * min(1.0, clock.done / clock.total):3.0f} %  {what}{f'  ({rest})' if rest else ''}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    class Left(ProgressColumn):
        """Counts down between one advance and the next."""

        def render(self, task: Task) -> Text:
            return Text(clock.left(), style="progress.remaining")

    what_is_done = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (what_is_done, BarColumn(bar_width=12), TaskProgressColumn(), TimeElapsedColumn(), Left(table_column=Column(no_wrap=True)))
    with Progress(*columns, console=Console(stderr=True), transient=True, expand=True) as progress:
        row = progress.add_task(title, total=total)

        def show(amount: float, what: str) -> None:
            clock.advance(amount)
            progress.update(row, advance=amount, description=f"{title}: {what}")

        yield show
