"""Native: the inner loops of merges in C (kernels.c), compiled for this processor when they are first needed.

Each loop does what its counterpart in torch does, to the bit, in one pass over a slice instead of four to ten. A function here returns
whether it did its work: not for other types than bfloat16 weights and float32 changes, not on another device, and not where there is no
C compiler. The caller then does it with torch. METIER_NATIVE=0 leaves all of it to torch.
"""

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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.lazy import torch

if TYPE_CHECKING:
    from metier.delta.kinds import Sum

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
BRAIN, SINGLE = "bfloat16", "float32"  # in arrays, the bits of a bfloat16 are uint16
Flat = Any  # (n,) a numpy array or a tensor
_P, _I, _N, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, tuple[list[Any], Any]] = {
    "between": ([_P, _P, _P, _N], None),
    "sampled": ([_P, _P, _N, _N, _N, _P], None),
    "summed": ([_P, _P, _P, _I, _F, _P, _N], None),
    "merged": ([_P, _P, _P, _I, _F, _P, _N], _I),
    "total": ([_P, _P, _I, _N], None),
    "gram": ([_P, _I, _N, _P], None),
    "added": ([_P, _P, _P, _N], _I),
    "rounded": ([_P, _P, _N], _I),
    "shrink": ([_P, _F, _P, _N], None),
    "look": ([_P, _N, _F, _F, _I, _I, _P, _P], None),
    "elect": ([_P, _I, _P, _I, _F, _N], None),
    "variance": ([_P, _I, _P, _N], None),
    "draw": ([_P, ctypes.c_uint8, _P, _N], _N),
    "drop": ([_P, _P, _F, _N], None),
    "thin": ([_P, _N, _N, _P, _F, _F, _I, _P, _P], None),
}
_one = threading.Lock()


def between(base: Flat, tuned: Flat, out: Flat) -> bool:
    """out = tuned - base. base, tuned: (n,) bfloat16; out: (n,) float32."""
    if (run := _for((base, BRAIN), (tuned, BRAIN), (out, SINGLE))) is None:
        return False
    run.between(address(tuned), address(base), address(out), len(out))
    return True


def sampled(base: Flat, tuned: Flat, step: int, length: int) -> NDArray[np.float32] | None:
    """|tuned - base| in runs of `length`, one in every `step` entries: (runs, length). base, tuned: (n,) bfloat16."""
    if (run := _for((base, BRAIN), (tuned, BRAIN))) is None:
        return None
    out = np.empty((len(base) // step, length), np.float32)
    run.sampled(address(tuned), address(base), step, len(out), length, address(out))
    return out


def summed(terms: Sum, start: int, stop: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """out = the entries [start, stop) of a sum of stored tensors."""
    needed().summed(*_terms(terms, start, stop), address(out), stop - start)
    return out


def merged(terms: Sum, start: int, stop: int, out: NDArray[np.uint16]) -> bool:
    """out = base + the entries [start, stop) of a sum of stored tensors, as `added`, or `rounded` where there is no base: whether it is finite."""
    return not needed().merged(*_terms(terms, start, stop), address(out), stop - start)


def _terms(terms: Sum, start: int, stop: int) -> tuple[Any, ...]:
    n = len(terms.tuned)
    if min(start, len(terms.tuned[0]) - stop) < 0 or any(len(t) != len(terms.tuned[0]) for t in terms.tuned):
        raise IndexError(f"[{start}, {stop}) of {[len(t) for t in terms.tuned]} entries.")
    base = None if terms.base is None else address(terms.base) + 2 * start
    return (
        base,
        (_P * n)(*(address(t) + 2 * start for t in terms.tuned)),
        (_F * n)(*terms.factors),
        n,
        1.0 if terms.scale is None else terms.scale,
    )


def total(rows: Sequence[Flat], coefs: Sequence[float]) -> bool:
    """The sum of coef * row in the first of the rows, (n,) float32 each."""
    if (run := _for(*((row, SINGLE) for row in rows))) is None:
        return False
    run.total(_places(rows), (_F * len(rows))(*coefs), len(rows), len(rows[0]))
    return True


def gram(rows: Sequence[Flat], out: NDArray[np.float64]) -> bool:
    """out += the inner products of the rows, (n,) float32 each; out: (k, k)."""
    if (run := _for(*((row, SINGLE) for row in rows))) is None:
        return False
    run.gram(_places(rows), len(rows), len(rows[0]), address(out))
    return True


def added(base: Flat, change: Flat, out: Flat) -> bool | None:
    """out = base + change, rounded once, entries whose change is 0 as they are: whether all of it is finite; None: not done."""
    if (run := _for((base, BRAIN), (change, SINGLE), (out, BRAIN))) is None:
        return None
    return not run.added(address(base), address(change), address(out), len(out))


def rounded(values: Flat, out: Flat) -> bool | None:
    """out = values, rounded: whether all of it is finite; None: not done."""
    if (run := _for((values, SINGLE), (out, BRAIN))) is None:
        return None
    return not run.rounded(address(values), address(out), len(out))


def shrink(values: Flat, limit: float, out: Flat) -> bool:
    """out = values where |values| is above `limit` or not a number, else 0."""
    if (run := _for((values, SINGLE), (out, SINGLE))) is None:
        return False
    run.shrink(address(values), limit, address(out), len(out))
    return True


class Counts(NamedTuple):
    """What `look` saw: how many magnitudes are not numbers, above the bracket, equal to its ends; those held, a copy."""

    none: int
    above: int
    highs: int
    lows: int
    held: NDArray[np.float32]


def look(values: Flat, low: float, high: float, low_apart: bool, high_apart: bool, room: NDArray[np.float32]) -> Counts | None:
    """Magnitudes of a slice against [low, high]. An end that is apart is counted, not held. room: (n,) float32, overwritten."""
    if (run := _for((values, SINGLE), (room, SINGLE))) is None:
        return None
    counts = (ctypes.c_int64 * 5)()
    run.look(address(values), len(values), low, high, low_apart, high_apart, address(room), counts)
    none, above, highs, lows, held = counts
    return Counts(none, above, highs, lows, room[:held].copy())


def elect(stack: Sequence[Flat], coefs: Sequence[float], least: float) -> bool:
    """The sign-elected mean of the rows in the first of them; the others are overwritten. least: see `parts.elect`."""
    rows = [row.reshape(-1) if isinstance(row, np.ndarray) or row.is_contiguous() else row for row in stack]
    if (run := _for(*((row, SINGLE) for row in rows))) is None:
        return False
    run.elect(_places(rows), len(rows), (_F * len(rows))(*coefs), len({abs(c) for c in coefs}) == 1, least, len(rows[0]))
    return True


def variance(rows: Sequence[Flat], out: Flat) -> bool:
    """The mean over the rows, (n,) float32 each, of the squares around their mean."""
    if (run := _for((out, SINGLE), *((row, SINGLE) for row in rows))) is None:
        return False
    run.variance(_places(rows), len(rows), address(out), len(out))
    return True


def _places(rows: Sequence[Flat]) -> Any:
    return (_P * len(rows))(*map(address, rows))


def address(flat: Flat) -> int:
    """Where its first entry is."""
    return flat.__array_interface__["data"][0] if isinstance(flat, np.ndarray) else flat.data_ptr()


def draw(draws: NDArray[np.uint8], split: int) -> NDArray[np.integer[Any]] | None:
    """draws becomes 1 where it is below `split`, else 0; the places where it is `split`. None: not done."""
    if split > 255 or (run := loops()) is None:
        return None
    places = np.empty(len(draws), np.int32)
    return places[: run.draw(draws.ctypes.data, split, places.ctypes.data, len(draws))]


def drop(values: Flat, kept: NDArray[np.uint8], divisor: float) -> bool:
    """Zero the values where `kept` is 0, divide the others. values: (n,) float32; kept: (n,), 0 or 1."""
    if (run := _for((values, SINGLE))) is None:
        return False
    run.drop(address(values), kept.ctypes.data, divisor, len(values))
    return True


def thin(values: Flat, width: int, draws: NDArray[np.uint32], low: float, slope: float, rescale: bool) -> bool:
    """Keep each entry of a row with probability low + slope * its rank by magnitude / (width - 1). values: (rows * width,) float32."""
    if (run := _for((values, SINGLE))) is None or width >= 1 << 31:
        return False
    room, keep, rows = np.empty(2 * width, np.uint64), np.empty(2 * width, np.float32), len(values) // width
    run.thin(address(values), rows, width, draws.ctypes.data, low, slope, rescale, room.ctypes.data, keep.ctypes.data)
    return True


def _for(*asked: tuple[Flat, str]) -> ctypes.CDLL | None:
    """The loops, where they can work on these."""
    n = len(asked[0][0])
    return loops() if all(len(flat) == n and _fits(flat, kind) for flat, kind in asked) else None


def _fits(flat: Flat, kind: str) -> bool:
    if isinstance(flat, np.ndarray):
        return flat.ndim == 1 and flat.flags.c_contiguous and flat.dtype == (np.uint16 if kind == BRAIN else np.float32)
    return flat.dim() == 1 and flat.is_cpu and flat.is_contiguous() and flat.dtype is getattr(torch, kind)


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
