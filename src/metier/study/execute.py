"""Executing jobs: here, in local processes, or on a Ray cluster; the same trial code, the same folders."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import signal
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from metier import atomic, cluster, progress
from metier.errors import Failed
from metier.model import Base, load_base
from metier.study.job import Job
from metier.study.trial import run_trial

Done = Callable[[Job, dict[str, Any]], None]
Tell = Callable[[Job, str], None]


@dataclass(frozen=True)
class BaseSpec:
    """How to load the base again in another process."""

    name: str
    family: Any
    dtype: str
    device: str
    chat: bool
    truncate: bool

    def load(self) -> Base:
        """The base."""
        return load_base(self.name, family=self.family, dtype=self.dtype, device=self.device, chat=self.chat, truncate=self.truncate)

    @classmethod
    def of(cls, base: Base) -> BaseSpec:
        """The spec of a loaded base; a folder is named in full, for a worker may stand elsewhere."""
        place = base.path or base.name
        name = str(Path(place).expanduser().resolve()) if Path(place).expanduser().is_dir() else place
        return cls(name, base.family, base.dtype, str(base.device), base.chat, base.truncate)


def here(jobs: Sequence[Job], base: Base, out: Path, done: Done, tell: Tell) -> None:
    """One after the other in this process."""
    for job in jobs:
        done(job, run_trial(job, base, out, tell=lambda what, job=job: tell(job, what), say=progress.say))  # type: ignore[misc]


def in_processes(jobs: Sequence[Job], base: Base, out: Path, done: Done, workers: int) -> None:
    """In `workers` local processes, each with its share of the threads that this one has."""
    import torch

    threads = max(1, torch.get_num_threads() // workers)
    context = multiprocessing.get_context("spawn")
    with _environment(PYTHONWARNINGS=f"{os.environ.get('PYTHONWARNINGS', '')},ignore:resource_tracker".strip(",")):
        resource_tracker.ensure_running()  # it tells of what a stopped worker leaves; it clears that away, so nobody need hear
    count = min(workers, max(1, len(jobs)))
    pool: Any = concurrent.futures.ProcessPoolExecutor(
        count, mp_context=context, initializer=_start, initargs=(BaseSpec.of(base), base.name, threads)
    )
    processes: list[Any] = []
    try:
        waiting = {pool.submit(_work, job, str(out)): job for job in jobs}
        processes = list((pool._processes or {}).values())  # taken now: a pool that shuts down forgets them
        for future in concurrent.futures.as_completed(waiting):
            processes = list((pool._processes or {}).values()) or processes
            done(waiting[future], future.result())
        pool.shutdown()
    except BrokenProcessPool as error:
        raise Failed(
            "a worker process died, most likely for lack of memory. Run again with fewer --workers; finished trials are kept."
        ) from error
    finally:
        manager, queued = pool._executor_manager_thread, pool._call_queue  # None after an orderly end
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(10)
        if manager is not None:
            manager.join(10)
            if manager.is_alive():  # Python before 3.11.5 hands a long job to a pipe that nobody reads, and never ends
                queued._reader.close()


def on_ray(jobs: Sequence[Job], base: Base, out: Path, done: Done, address: str) -> None:
    """On a Ray cluster ('auto', 'local', or an address). Trial folders travel back as archives, so no shared disk is needed."""
    named = [(job, f"{job.method} on {job.task.name}") for job in jobs]
    with cluster.connected(address) as ray:
        for job, (card, archive) in cluster.spread(ray, _ray_work, named, (BaseSpec.of(base), base.name), "finished trials"):
            for remark in card.get("remarks", ()):
                progress.say(remark)
            _unpack(archive, out / "trials" / card["key"])
            done(job, card)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, old in before.items():
            if old is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = old


_BASE: dict[BaseSpec, Base] = {}


def _start(spec: BaseSpec, name: str, threads: int) -> None:
    """A local worker's beginning: Ctrl-C is its parent's to handle, and it ends when its parent is gone."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    progress.for_terminal()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    _loaded(spec, name)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _loaded(spec: BaseSpec, name: str) -> Base:
    if spec not in _BASE:
        _BASE[spec] = spec.load()
        _BASE[spec].name = name
    return _BASE[spec]


def _work(job: Job, out: str) -> dict[str, Any]:
    return run_trial(job, next(iter(_BASE.values())), Path(out), say=progress.say)


def _ray_work(job: Job, where: tuple[BaseSpec, str]) -> tuple[dict[str, Any], bytes]:
    progress.for_terminal()
    with tempfile.TemporaryDirectory() as scratch:
        card = run_trial(job, _loaded(*where), Path(scratch))
        buffer = io.BytesIO()
        trial = Path(scratch) / "trials" / card["key"]
        with zipfile.ZipFile(buffer, "w") as archive:
            for file in sorted(trial.rglob("*")):
                archive.write(file, file.relative_to(trial))
        return card, buffer.getvalue()


def _unpack(archive: bytes, place: Path) -> None:
    with atomic.folder(place) as draft, zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(draft)
