"""Every merge as a method: its experts are opened, merged on the base, and what comes out is a change of the base's weights."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from metier.delta import Checkpoint, Delta, Merge, merged, transformed
from metier.delta.difference import combined, weights
from metier.delta.parts import by_depth
from metier.errors import UserError
from metier.merge._experts import made_of, open_experts, weights_of, weights_of_model
from metier.merge._needs import unweighted

if TYPE_CHECKING:
    from torch import Tensor

    from metier.model import Specialist, WeightChange
    from metier.task import Task
    from metier.train import Run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that every merge has."""

    experts: tuple[str, ...]
    """What is merged, in this order: folders of deltas, specialists, PEFT adapters or full checkpoints; comma-separated."""
    coef: tuple[float, ...] = ()
    """Factor of each expert, in their order; none: 1 each."""
    lines: float | None = None
    """LiNeS after the merge: factor of the first layer's change, rising to 1 in the last layer; none: no scaling by depth."""


@functools.cache
def as_method(
    function: Callable[..., Merge], count: tuple[int, int | None], *, weighted: bool
) -> tuple[Callable[..., WeightChange], type[Settings]]:
    """(method, its Settings) of a merge. count: how many experts it takes, the least and the most (None: any number)."""
    names = tuple(inspect.signature(function).parameters)

    def merge_of(settings: Settings) -> Merge:
        return function(**{n: getattr(settings, n) for n in names})

    def check_settings(settings: Settings) -> None:
        enough(function.__name__, len(settings.experts), count)
        if settings.coef and len(settings.coef) != len(settings.experts):
            raise UserError(
                f"coef: {len(settings.coef)} coefficients for {len(settings.experts)} experts. Give one for each, in their order."
            )
        if not weighted:
            unweighted(function.__name__, settings.coef)
        merge_of(settings)  # which checks the hyperparameters

    def method(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
        """The merged experts as a change of the base."""
        bodies, experts = open_experts(settings.experts, start)
        delta = change_of(merge_of(settings), bodies, weights_of_model(start.base), coefs=settings.coef, lines=settings.lines)
        return made_of(delta, start, task, experts)

    kinds, arguments = typing.get_type_hints(function), inspect.signature(function).parameters
    fields = [(n, kinds[n], dataclasses.field(default=arguments[n].default)) for n in names]
    made = dataclasses.make_dataclass(
        "Settings", fields, bases=(Settings,), namespace={"__post_init__": check_settings}, frozen=True, kw_only=True
    )
    return method, made


def change_of(
    merge: Merge, experts: Sequence[Delta], base: Mapping[str, Tensor], *, coefs: Sequence[float] = (), lines: float | None = None
) -> Delta:
    """The merged change of a base, computed when it is read; where the merge works on whole weights, they are formed and taken away again.

    lines: factor of the first layer's change, rising to 1 in the last.
    """
    if merge.weights == "delta":
        delta = merged(merge, experts, coefs=coefs)
    else:
        names = dict.fromkeys(n for e in experts for n in e)
        whole = merged(merge, [weights_of(e, base, names) for e in experts], coefs=coefs)
        delta = whole.map(
            lambda name, entry: combined(entry, weights(base.mapped(name) if isinstance(base, Checkpoint) else base[name]), -1.0)
        )
    return delta if lines is None else transformed(by_depth(lines, 1.0), delta, method="lines", settings={"lines": lines}, papers=[39])


def enough(name: str, given: int, count: tuple[int, int | None]) -> None:
    """Raises UserError where a merge is given too few or too many experts."""
    least, most = count
    if given < least or (most is not None and given > most):
        rule = f"exactly {least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(f"{name}: takes {rule} expert{'s' if (most or least) > 1 else ''}; got {given}.")
