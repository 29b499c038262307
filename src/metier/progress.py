"""Progress and remarks on standard error; results go to standard output."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Say = Callable[[str], None]
Advance = Callable[[float, str], None]


def say(text: str) -> None:
    """One line for the person at the terminal."""
    sys.stderr.write(text.rstrip() + "\n")
    sys.stderr.flush()


@contextlib.contextmanager
def bar(title: str, total: float, *, quiet: bool = False) -> Iterator[Advance]:
    """A progress bar with an estimated end; the block gets `advance(amount, what is being done)`. Plain lines where there is no terminal."""
    if quiet or not sys.stderr.isatty():
        done = 0.0

        def tell(amount: float, what: str) -> None:
            nonlocal done
            done += amount
            if not quiet and amount > 0:
                say(f"{title} {100 * done / max(total, 1e-9):3.0f} %  {what}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        row = progress.add_task(title, total=total)
        yield lambda amount, what: progress.update(row, advance=amount, description=f"{title}: {what[:40]}")
