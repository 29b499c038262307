"""The errors metier raises on purpose: one clear sentence for a person, naming place, rule, value and remedy.

`UserError` is what the command line prints without a traceback (exit code 2); `Failed` ends with exit code 1. Weight
mismatches are `ValueError`s with names of their own, because callers may want to catch exactly them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot be used; the message says what, where and what to do."""


class NotApplicable(UserError):
    """A method finds that it is not for this base or task; in a comparison that is no failure."""


class Unwritable(UserError):
    """A result cannot be written: a full disk, a folder without permission."""


class KeyMismatch(UserError):
    """A change names tensors or modules that the base does not have."""


class ShapeMismatch(UserError):
    """A change's tensor does not have the shape of the base's."""


class BaseMismatch(UserError):
    """A change was made from another base (fingerprints differ)."""


class NotNumbers(UserError):
    """Weights or changes of the tensor called `tensor` are infinite or not numbers."""

    def __init__(self, message: str, tensor: str = "") -> None:
        super().__init__(message)
        self.tensor = tensor


class SealedSplit(UserError):
    """A method asked for the test split."""


class Failed(RuntimeError):
    """The work could not be done although nothing was wrong with what was asked; the command line ends with exit code 1."""


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of python, torch or the system says that memory does not suffice."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | OSError) and any(t in str(error).lower() for t in OUT_OF_MEMORY)
    )


class Diverged(Failed):
    """Training produced a loss that is not a number, or that exploded."""


def nearest(name: str, known: Iterable[str]) -> str:
    """'Did you mean ...? Known: ...' for an unknown name; lists at most 40 known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return f"{hint} Known: {listed}." if names else hint
