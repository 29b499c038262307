"""Heads: tensors that a change brings along and the base does not have. They belong to one task, a checkpoint has no place for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from metier import progress
from metier.delta import Checkpoint, Delta, New
from metier.delta.parts.scale import depth_of
from metier.errors import KeyMismatch, UserError


class Body(NamedTuple):
    """A change of what the base has, and the names of the head's tensors that were left out."""

    delta: Delta
    left_out: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """For JSON; nothing where there is no head."""
        return {"left_out": list(self.left_out)} if self.left_out else {}


def body_of(delta: Delta, base: Checkpoint | None, place: str) -> Body:
    """The change without its head, which is said. Raises UserError where nothing is left, KeyMismatch for a new tensor that is no head.

    A head is a module of its own beside the base's; a new tensor inside a layer, or in a module that the base has, takes part in
    what the body computes, and without it the body would be another model.
    """
    modules = {n.rpartition(".")[0] for n in base.where} if base else set()
    new = [n for n in delta if isinstance(delta.entries[n], New)]
    if inside := [n for n in new if depth_of(n) is not None or n.rpartition(".")[0] in modules]:
        raise KeyMismatch(
            f"{place}: '{inside[0]}' is a tensor that the base{f' {base.path}' if base else ''} does not have, and a part of its body. "
            "Was the change made from another model?"
        )
    if not new:
        return Body(delta)
    found = delta.only([n for n in delta if n not in new])
    if not len(found):
        raise UserError(f"{place}: changes no tensor of the base; all it holds is a head ({', '.join(new)}), which stays in {place}.")
    progress.say(
        f"left out: {', '.join(new)} of {place}: a head for one task, for which a checkpoint or an adapter of the base has no place. "
        f"Only the body is taken; {place} keeps the head."
    )
    return Body(found, tuple(new))


def bodies_of(deltas: Sequence[Delta], base: Checkpoint | None, places: Sequence[str]) -> list[Delta]:
    """The changes without their heads: heads of different tasks are not merged. Errors as of `body_of`."""
    return [body_of(delta, base, place).delta for delta, place in zip(deltas, places, strict=True)]
