"""Native: the inner loops of merges in C (kernels.c), compiled for this processor when they are first needed.

Each loop but `divergence` does what its counterpart in torch does, to the bit, in one pass over a slice instead of four to ten. A
function here returns whether it did its work: not for other types than bfloat16 weights and float32 changes, not on another device, and
not where there is no C compiler. The caller then does it with torch. METIER_NATIVE=0 leaves all of it to torch.

The loops take numpy arrays as well as tensors: a merge of stored weights ('plain' entries) needs no torch, which takes a second to load.
What is a sum of stored tensors is formed by `sums.merged`, all of a slice at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metier.delta.compiled import loops, needed
from metier.lazy import torch

BRAIN, SINGLE = "bfloat16", "float32"  # in arrays, the bits of a bfloat16 are uint16
CHUNK = 1024  # entries that a loop has at hand at once, as in kernels.c
Flat = Any  # (n,) a numpy array or a tensor
_P, _I, _N, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float


def between(base: Flat, tuned: Flat, out: Flat) -> bool:
    """out = tuned - base. base, tuned: (n,) bfloat16; out: (n,) float32."""
    if (run := fitting((base, BRAIN), (tuned, BRAIN), (out, SINGLE))) is None:
        return False
    run.between(address(tuned), address(base), address(out), len(out))
    return True


def sampled(base: Flat, tuned: Flat, step: int, length: int) -> NDArray[np.float32] | None:
    """|tuned - base| in runs of `length`, one in every `step` entries: (runs, length). base, tuned: (n,) bfloat16."""
    if (run := fitting((base, BRAIN), (tuned, BRAIN))) is None:
        return None
    out = np.empty((len(base) // step, length), np.float32)
    run.sampled(address(tuned), address(base), step, len(out), length, address(out))
    return out


def total(rows: Sequence[Flat], coefs: Sequence[float]) -> bool:
    """The sum of coef * row in the first of the rows, (n,) float32 each."""
    if (run := fitting(*((row, SINGLE) for row in rows))) is None:
        return False
    run.total(_places(rows), (_F * len(rows))(*coefs), len(rows), len(rows[0]))
    return True


def gram(rows: Sequence[Flat], out: NDArray[np.float64]) -> bool:
    """out += the inner products of the rows, (n,) float32 each; out: (k, k)."""
    if (run := fitting(*((row, SINGLE) for row in rows))) is None:
        return False
    run.gram(_places(rows), len(rows), len(rows[0]), address(out))
    return True


def gram_stored(base: NDArray[np.uint16] | None, tuned: Sequence[NDArray[np.uint16]], out: NDArray[np.float64]) -> None:
    """As `gram`, of tensors that are stored, (n,) bits of bfloat16 each, less the base where there is one."""
    needed().gram_stored(None if base is None else address(base), _places(tuned), len(tuned), len(tuned[0]), address(out))


def added(base: Flat, change: Flat, out: Flat) -> bool | None:
    """out = base + change, rounded once, entries whose change is 0 as they are: whether all of it is finite; None: not done."""
    if (run := fitting((base, BRAIN), (change, SINGLE), (out, BRAIN))) is None:
        return None
    return not run.added(address(base), address(change), address(out), len(out))


def rounded(values: Flat, out: Flat) -> bool | None:
    """out = values, rounded: whether all of it is finite; None: not done."""
    if (run := fitting((values, SINGLE), (out, BRAIN))) is None:
        return None
    return not run.rounded(address(values), address(out), len(out))


def shrink(values: Flat, limit: float, out: Flat) -> bool:
    """out = values where |values| is above `limit` or not a number, else 0."""
    if (run := fitting((values, SINGLE), (out, SINGLE))) is None:
        return False
    run.shrink(address(values), limit, address(out), len(out))
    return True


class Pair(NamedTuple):
    """Slices of the bits of two stored tensors, whose difference is meant."""

    base: NDArray[np.uint16]
    tuned: NDArray[np.uint16]


class Ends(NamedTuple):
    """A bracket of magnitudes, and whether those equal to its ends are counted apart, not held."""

    low: float
    high: float
    low_apart: bool
    high_apart: bool


class Counts(NamedTuple):
    """What `look` saw: how many magnitudes are not numbers, above a bracket, equal to its ends; those held, a copy."""

    none: int
    above: int
    highs: int
    lows: int
    held: NDArray[np.float32]


class _Bracket(ctypes.Structure):
    _fields_ = (
        ("low", _F), ("high", _F), ("low_apart", ctypes.c_int32), ("high_apart", ctypes.c_int32),
        ("above", _N), ("highs", _N), ("lows", _N), ("within", _N), ("held", _P),
    )  # fmt: skip


def look(values: Flat | Pair, brackets: Sequence[Ends], rooms: NDArray[np.float32]) -> list[Counts] | None:
    """Magnitudes of a slice, or of a difference, against each bracket. rooms: (brackets, n), overwritten; None: not done."""
    run = needed() if isinstance(values, Pair) else fitting((values, SINGLE), (rooms[0], SINGLE))
    if run is None:
        return None
    found = (_Bracket * len(brackets))(*(_Bracket(*ends, 0, 0, 0, 0, address(room)) for ends, room in zip(brackets, rooms, strict=True)))
    none = run.look(*_looked_at(values), rooms.shape[1], found, len(brackets))
    return [Counts(none, f.above, f.highs, f.lows, room[: f.within].copy()) for f, room in zip(found, rooms, strict=True)]


def tied(values: Flat | Pair, value: float, kept: int) -> tuple[int, int] | None:
    """(place of the kept-th magnitude that equals `value`, or the last place, how many of them are still to be found). None: not done."""
    if (run := needed() if isinstance(values, Pair) else fitting((values, SINGLE))) is None:
        return None
    left = _N(kept)
    last = run.tied(*_looked_at(values), length(values), value, ctypes.byref(left))
    return last, left.value


def length(values: Flat | Pair) -> int:
    """How many entries there are."""
    return len(values.tuned if isinstance(values, Pair) else values)


def _looked_at(values: Flat | Pair) -> tuple[int | None, int | None, int | None]:
    return (None, address(values.tuned), address(values.base)) if isinstance(values, Pair) else (address(values), None, None)


def ranked(parts: Sequence[NDArray[np.float32]], rank: int) -> tuple[float, int, int] | None:
    """The rank-th largest of all magnitudes, how many of those equal to it the rank takes, and how many there are. None: not done."""
    if (run := loops()) is None or not 0 < rank <= sum(map(len, parts)):
        return None
    lengths, found = np.array([len(p) for p in parts], np.int64), np.empty(3, np.int64)
    run.ranked(_places(parts), address(lengths), len(parts), rank, address(found))
    return float(found[:1].astype(np.uint32).view(np.float32)[0]), int(found[1]), int(found[2])


def least(coefs: Sequence[float]) -> float:
    """Something to divide 0 by that no sum of weights is below."""
    return min((abs(c) for c in coefs if c), default=1.0)


def votes(coefs: Sequence[float]) -> tuple[bool, float]:
    """Whether all weigh the same, and something to divide 0 by: what an election must know of its coefficients."""
    return len({abs(c) for c in coefs}) == 1, least(coefs)


def elect(stack: Sequence[Flat], coefs: Sequence[float]) -> bool:
    """The sign-elected mean of the rows in the first of them; the others are overwritten."""
    rows = [row.reshape(-1) if isinstance(row, np.ndarray) or row.is_contiguous() else row for row in stack]
    if (run := fitting(*((row, SINGLE) for row in rows))) is None:
        return False
    run.elect(_places(rows), len(rows), (_F * len(rows))(*coefs), *votes(coefs), len(rows[0]))
    return True


def averaged(rows: Sequence[Flat], coefs: Sequence[float], boosts: Sequence[float] | None, least: float) -> bool:
    """In the first row, the mean of coef * row over those above `least` there. boosts: a factor for each where it is alone."""
    if (run := fitting(*((row, SINGLE) for row in rows))) is None:
        return False
    k = len(rows)
    run.averaged(_places(rows), (_F * k)(*coefs), None if boosts is None else (_F * k)(*boosts), k, least, len(rows[0]))
    return True


def divergence(first: Flat, second: Flat, width: int, tiny: float, out: NDArray[np.float32]) -> bool:
    """For each row of `width`: KL(softmax(second) || softmax(first)), `tiny` added to every probability. out: (rows,).

    Exponentials and logarithms are this loop's own, right to about one unit in the last place as torch's are, but not the same bits.
    """
    if (run := fitting((first, SINGLE), (second, SINGLE))) is None:
        return False
    room = np.empty(2 * width, np.float32)
    run.divergence(address(first), address(second), len(out), width, tiny, address(room), address(out))
    return True


def divergence_stored(pair: Pair, width: int, tiny: float, out: NDArray[np.float32]) -> None:
    """The same, of stored tensors. base: the first."""
    room = np.empty(4 * width, np.float32)
    needed().divergence_stored(address(pair.base), address(pair.tuned), len(out), width, tiny, address(room), address(out))


def weighed(first: Flat, second: Flat, of_row: NDArray[np.float32], width: int, start: int, out: Flat) -> bool:
    """out = |second - first| times the number of its row. start: which entry of the tensor they begin at."""
    if (run := fitting((first, SINGLE), (second, SINGLE), (out, SINGLE))) is None:
        return False
    run.weighed(address(first), address(second), address(of_row), width, start, address(out), len(out))
    return True


def weighed_stored(pair: Pair, of_row: NDArray[np.float32], width: int, start: int, out: NDArray[np.float32]) -> None:
    """The same, of stored tensors."""
    needed().weighed_stored(address(pair.base), address(pair.tuned), address(of_row), width, start, address(out), len(out))


def chosen(first: Flat, second: Flat, of_row: NDArray[np.float32], width: int, start: int, least: float) -> bool:
    """first = second where what `weighed` says is at least `least`."""
    if (run := fitting((first, SINGLE), (second, SINGLE))) is None:
        return False
    run.chosen(address(first), address(second), address(of_row), width, start, least, len(first))
    return True


def variance(rows: Sequence[Flat], out: Flat) -> bool:
    """The mean over the rows, (n,) float32 each, of the squares around their mean."""
    if (run := fitting((out, SINGLE), *((row, SINGLE) for row in rows))) is None:
        return False
    run.variance(_places(rows), len(rows), address(out), len(out))
    return True


def select_varied(rows: Sequence[Flat], least: float, last: int) -> bool:
    """Zero in all rows, (n,) float32 each, where their variance is below `least`, or equal to it after index `last`."""
    if (run := fitting(*((row, SINGLE) for row in rows))) is None:
        return False
    run.select_varied(_places(rows), len(rows), least, last, len(rows[0]))
    return True


def erase(rows: Sequence[Flat], weights: Sequence[float]) -> bool:
    """In the first row, the mean, by weight, of those rows whose sign is that of their sum."""
    if (run := fitting(*((row, SINGLE) for row in rows))) is None:
        return False
    run.erase(_places(rows), len(rows), (_F * len(rows))(*weights), least(weights), len(rows[0]))
    return True


def _places(rows: Sequence[Flat]) -> Any:
    return (_P * len(rows))(*map(address, rows))


def address(flat: Flat) -> int:
    """Where its first entry is."""
    return flat.__array_interface__["data"][0] if isinstance(flat, np.ndarray) else flat.data_ptr()


def fitting(*asked: tuple[Flat, str]) -> ctypes.CDLL | None:
    """The loops, where they can work on these: flat arrays or tensors of one length, each of the type that is said."""
    n = len(asked[0][0])
    return loops() if all(len(flat) == n and _fits(flat, kind) for flat, kind in asked) else None


def _fits(flat: Flat, kind: str) -> bool:
    if isinstance(flat, np.ndarray):
        return flat.ndim == 1 and flat.flags.c_contiguous and flat.dtype == (np.uint16 if kind == BRAIN else np.float32)
    return flat.dim() == 1 and flat.is_cpu and flat.is_contiguous() and flat.dtype is getattr(torch, kind)
