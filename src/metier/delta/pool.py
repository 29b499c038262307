"""Pool: a few threads for jobs that may submit further jobs; those come first, so that what was just read is used while it is near."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from metier.lazy import alone, torch


class Pool:
    """`submit` jobs, `wait` for all. An error in a job drops those that are left and is raised by `wait`."""

    def __init__(self, workers: int) -> None:
        self._jobs: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order, self._busy, self._closed = itertools.count(), 0, False
        self._change, self._error = threading.Condition(), None  # type: tuple[threading.Condition, BaseException | None]
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._change:
            self._closed, self._jobs = True, []
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def submit(self, job: Callable[..., None], *args: Any, first: bool = False) -> None:
        """Queue a job; `first`: before all that are not."""
        with self._change:
            if self._error is None:
                heapq.heappush(self._jobs, (0 if first else 1, next(self._order), job, args))
                self._change.notify()

    def wait(self) -> None:
        """Until no job is left. Raises the first error of a job."""
        with self._change:
            self._change.wait_for(lambda: not self._jobs and not self._busy)
            error, self._error = self._error, None
        if error is not None:
            raise error

    def _work(self) -> None:
        alone()
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                _, _, job, args = heapq.heappop(self._jobs)
                self._busy += 1
            error = _tried(job, args)
            with self._change:
                self._busy -= 1
                if error is not None:
                    self._error, self._jobs = self._error or error, []
                self._change.notify_all()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """What torch does inside, it does with one thread."""
    if (before := torch.get_num_threads()) == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tried(job: Callable[..., None], args: tuple[Any, ...]) -> BaseException | None:
    try:
        job(*args)
    except BaseException as error:  # handed to the thread that waits
        return error
    return None
