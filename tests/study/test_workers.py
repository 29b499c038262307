"""The same trials in local processes and on Ray: the same results as one after the other in this process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.study.making import base_folder, environment, essence, leavings, metier, rows, table

from metier.cluster import answers
from metier.errors import Failed, UserError
from metier.study import execute

WORDS = (
    "compare",
    "tickets.csv",
    "--methods",
    "few-shot,bitfit+lora",
    "--seeds",
    1,
    "--budget",
    "60ex",
    "--precision",
    "float32",
    "--json",
)


def run(place: Path, *more: Any, **env: str) -> dict[str, Any]:
    seen = metier(*WORDS, "-b", base_folder(), *more, cwd=place, **env)
    assert seen.returncode == 0 and seen.stderr == "", seen.stderr
    report: dict[str, Any] = json.loads(seen.stdout)
    return report


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    table(folder / "tickets.csv", rows())
    return folder


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, Any]:
    return run(place, "-o", "alone")


@pytest.mark.slow
def test_local_processes(place: Path, alone: dict[str, Any]) -> None:
    assert essence(run(place, "-o", "two", "--workers", 2)) == essence(alone)
    assert leavings(place / "two") == [] and (place / "two/best/specialist.json").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_local_ray(place: Path, alone: dict[str, Any]) -> None:
    assert essence(run(place, "-o", "ray", "--ray", "local")) == essence(alone)
    assert leavings(place / "ray") == []


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray of two nodes with a worker each; gives its address."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
    yield made.address
    made.shutdown()


@pytest.mark.slow
@pytest.mark.ray
def test_ray_of_two_nodes(place: Path, alone: dict[str, Any], cluster: str) -> None:
    assert essence(run(place, "-o", "nodes", "--ray", cluster)) == essence(alone)
    assert leavings(place / "nodes") == []


@pytest.mark.parametrize("address", ["nobody", "127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1"])
def test_an_address_where_nobody_answers(address: str) -> None:
    with pytest.raises(UserError, match=r"write HOST:PORT|nobody answers there"):
        answers(address)


@pytest.mark.slow
def test_a_worker_that_dies(tmp_path: Path) -> None:
    from tests.study.making import method
    from tests.tiny import tiny_causal, tiny_task

    from metier.study.job import Job
    from metier.train import Budget

    sys.path.insert(0, str(tmp_path))
    try:
        name = method(tmp_path, "dying", "__import__('os')._exit(9)")
        jobs = [Job(name, tiny_task("choose"), 0, Budget(24), "float32")]
        with pytest.raises(Failed, match="a worker process died"):
            execute.in_processes(jobs, tiny_causal(), tmp_path / "out", lambda *_: None, 1)
    finally:
        sys.path.remove(str(tmp_path))


LONG = """
import shutil, sys
from pathlib import Path
from metier.errors import Failed
from metier.model import load_base
from metier.study import execute
from metier.study.job import Job
from metier.task import Example, Task
from metier.train import Budget

base = load_base(sys.argv[1])
shutil.rmtree(sys.argv[1])  # no worker can load it: all of them die at once, and nobody reads the jobs
rows = tuple(Example(str(i), {"text": "a" * 5000}, "yes") for i in range(100))
task = Task(name="long", kind="choose", template="{{ text }}", inputs=("text",), metric="accuracy", choices=("yes", "no"), train=rows, test=rows)
jobs = [Job("zero-shot", task, seed, Budget(8), "float32", {}) for seed in range(4)]
try:
    execute.in_processes(jobs, base, Path(sys.argv[2]), print, 2)
except Failed as error:
    print(error)
"""


@pytest.mark.slow
def test_jobs_longer_than_a_pipe_do_not_keep_a_broken_pool_alive(tmp_path: Path) -> None:
    shutil.copytree(base_folder(), tmp_path / "base")
    words = [sys.executable, "-c", LONG, str(tmp_path / "base"), str(tmp_path / "out")]
    seen = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, env=environment())
    assert seen.returncode == 0 and "a worker process died" in seen.stdout, seen.stderr


def test_environment_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("METIER_A", "old")
    with execute._environment(METIER_A="new", METIER_B="new"):
        assert os.environ["METIER_A"] == os.environ["METIER_B"] == "new"
    assert os.environ["METIER_A"] == "old" and "METIER_B" not in os.environ
