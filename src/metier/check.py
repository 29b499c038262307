"""Checks of values at the door: each returns the value or raises `UserError` naming it, the rule and what came."""

from __future__ import annotations

from collections.abc import Iterable

from metier.errors import UserError, nearest


def integer(name: str, value: int, *, low: int | None = None, high: int | None = None) -> int:
    """A whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{name} must be a whole number; got {value!r}.")
    if (low is not None and value < low) or (high is not None and value > high):
        raise UserError(f"{name} must be {_range(low, high)}; got {value}.")
    return value


def number(name: str, value: float, *, low: float | None = None, high: float | None = None, above: float | None = None) -> float:
    """A finite number in [low, high], strictly greater than `above`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value in (float("inf"), float("-inf")):
        raise UserError(f"{name} must be a finite number; got {value!r}.")
    if (low is not None and value < low) or (high is not None and value > high) or (above is not None and value <= above):
        rule = f"above {above}" if above is not None else ""
        rest = _range(low, high) if low is not None or high is not None else ""
        raise UserError(f"{name} must be {' and '.join(r for r in (rule, rest) if r)}; got {value}.")
    return value


def fraction(name: str, value: float) -> float:
    """A number in (0, 1]."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 1 < value <= 100:
        raise UserError(f"{name} must be in (0, 1]; got {value}. It is a fraction: write {value / 100:g} for {value:g} %.")
    return number(name, value, above=0, high=1)


def one_of(name: str, value: str, known: Iterable[str]) -> str:
    """One of the known words; an unknown one is answered with the nearest."""
    options = list(known)
    if value not in options:
        raise UserError(f"{name}: unknown value {value!r}.{nearest(str(value), options)}")
    return value


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"between {low} and {high}"
    return f"at least {low}" if low is not None else f"at most {high}"
