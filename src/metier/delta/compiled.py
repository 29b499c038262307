"""Compiled: the library of the loops in kernels.c, made for this processor when it is first needed and kept for later processes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_P, _I, _N, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "between": ([_P, _P, _P, _N], None),
    "sampled": ([_P, _P, _N, _N, _N, _P], None),
    "summed": ([_P, _P, _P, _I, _F, _P, _N], None),
    "merged": ([_P, _P, _P, _I, _F, _P, _I, _I, _F, _P, _P, _N], _I),
    "total": ([_P, _P, _I, _N], None),
    "gram": ([_P, _I, _N, _P], None),
    "gram_stored": ([_P, _P, _I, _N, _P], None),
    "added": ([_P, _P, _P, _N], _I),
    "rounded": ([_P, _P, _N], _I),
    "shrink": ([_P, _F, _P, _N], None),
    "tied": ([_P, _P, _P, _N, _F, _P], _N),
    "look": ([_P, _P, _P, _N, _P, _I], _N),
    "ranked": ([_P, _P, _N, _N, _P], None),
    "elect": ([_P, _I, _P, _I, _F, _N], None),
    "averaged": ([_P, _P, _P, _I, _F, _N], None),
    "divergence": ([_P, _P, _N, _N, _F, _P, _P], None),
    "divergence_stored": ([_P, _P, _N, _N, _F, _P, _P], None),
    "weighed_stored": ([_P, _P, _P, _N, _N, _P, _N], None),
    "weighed": ([_P, _P, _P, _N, _N, _P, _N], None),
    "chosen": ([_P, _P, _P, _N, _N, _F, _N], None),
    "variance": ([_P, _I, _P, _N], None),
    "select_varied": ([_P, _I, _F, _N, _N], None),
    "erase": ([_P, _I, _P, _F, _N], None),
    "draw": ([_P, _N, _P, _N], None),
    "drop": ([_P, _P, _N, ctypes.c_uint32, _F, _N], None),
    "thinning": ([_P, _N, _N, _P, _F, _F, _I, _P, _P, _P], None),
    "divide": ([_P, _P, _N], None),
}
_one = threading.Lock()


def needed() -> ctypes.CDLL:
    """The loops. Raises RuntimeError where there are none: a plain entry was made while there were."""
    if (run := loops()) is None:
        raise RuntimeError("metier.delta: the compiled loops were there and are gone. Was METIER_NATIVE set meanwhile?")
    return run


def loops() -> ctypes.CDLL | None:
    """The compiled loops; None where they are not wanted or cannot be had, which is said once."""
    return None if os.environ.get("METIER_NATIVE") == "0" else _loops()


def _loops() -> ctypes.CDLL | None:
    with _one:
        return _made()


@functools.cache
def _made() -> ctypes.CDLL | None:
    place = _cache() / f"kernels-{_key()}.so"
    try:
        found = ctypes.CDLL(str(place if place.is_file() else _compiled(place)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        warnings.warn(
            f"the loops of merges could not be compiled ({said.strip().splitlines()[-1]}): they run in torch, which takes several times "
            "as long. Install a C compiler, or say METIER_NATIVE=0 to hear no more of it.",
            stacklevel=2,
        )  # fmt: skip
        return None
    for name, (takes, gives) in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = takes, gives
    return found


def _compiled(place: Path) -> Path:
    compiler = next((c for c in (os.environ.get("CC"), *COMPILERS) if c and shutil.which(c)), None)
    if compiler is None:
        raise OSError(f"no C compiler: {', '.join(COMPILERS)}")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as work:
        draft = Path(work) / place.name
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(draft), "-lm"], check=True, capture_output=True, text=True, timeout=120)
        os.replace(draft, place)
    return place


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metier" / "native"


def _key() -> str:
    """Of the source, the flags and the processor: a home may be shared by different ones."""
    try:
        processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    return hashlib.sha256(SOURCE.read_bytes() + f"{FLAGS}{platform.machine()}{processor}".encode()).hexdigest()[:16]
