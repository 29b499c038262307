"""Executing jobs: here, in local processes, or on a Ray cluster; the same trial code, the same folders."""

from __future__ import annotations

import concurrent.futures
import io
import multiprocessing
import os
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier import atomic
from metier.errors import UserError
from metier.model import Base, load_base
from metier.study.trial import Job, run_trial

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
        """The spec of a loaded base."""
        parameter = next(base.model.parameters())
        return cls(base.path or base.name, base.family, str(parameter.dtype).removeprefix("torch."), str(parameter.device), base.chat, base.truncate)


def here(jobs: Sequence[Job], base: Base, out: Path, done: Done, tell: Tell) -> None:
    """One after the other in this process."""
    for job in jobs:
        done(job, run_trial(job, base, out, tell=lambda what, job=job: tell(job, what)))  # type: ignore[misc]


def in_processes(jobs: Sequence[Job], base: Base, out: Path, done: Done, workers: int) -> None:
    """In `workers` local processes, each with its share of the cores."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(BaseSpec.of(base), base.name, threads))
    try:
        waiting = {pool.submit(_work, job, str(out)): job for job in jobs}
        for future in concurrent.futures.as_completed(waiting):
            done(waiting[future], future.result())
    except BrokenProcessPool as error:
        raise UserError("a worker process died, most likely for lack of memory. Run again with fewer --workers; finished trials are kept.") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()


def on_ray(jobs: Sequence[Job], base: Base, out: Path, done: Done, address: str) -> None:
    """On a Ray cluster ('auto', 'local', or an address). Trial folders travel back as archives, so no shared disk is needed."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray, which is not installed. Run: pip install 'metier[ray]'.") from error
    if not ray.is_initialized():
        try:
            ray.init(address=None if address == "local" else address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--ray {address}: no Ray cluster answers there ({error}). Start one with `ray start --head`, or say --ray local.") from error
    remote = ray.remote(num_cpus=1, max_retries=1)(_ray_work)
    spec = ray.put((BaseSpec.of(base), base.name))
    waiting = {remote.remote(job, spec): job for job in jobs}
    while waiting:
        ready, _ = ray.wait(list(waiting), num_returns=1)
        card, archive = ray.get(ready[0])
        _unpack(archive, out / "trials" / card["key"])
        done(waiting.pop(ready[0]), card)


_BASE: dict[BaseSpec, Base] = {}


def _start(spec: BaseSpec, name: str, threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _loaded(spec, name)


def _loaded(spec: BaseSpec, name: str) -> Base:
    if spec not in _BASE:
        _BASE[spec] = spec.load()
        _BASE[spec].name = name
    return _BASE[spec]


def _work(job: Job, out: str) -> dict[str, Any]:
    return run_trial(job, next(iter(_BASE.values())), Path(out))


def _ray_work(job: Job, where: tuple[BaseSpec, str]) -> tuple[dict[str, Any], bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        card = run_trial(job, _loaded(*where), Path(scratch))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(Path(scratch) / "trials" / card["key"], arcname=".")
        return card, buffer.getvalue()


def _unpack(archive: bytes, place: Path) -> None:
    with atomic.folder(place) as draft, tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(draft, filter="data")
