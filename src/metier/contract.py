"""The contract that every method keeps, to be run on any method: `check_method("lora", base=base, task=task)`.

Whoever writes a method runs this on it, on a small base and task: it fails with `ContractBroken`, which names the clause
and what was seen. The method is run twice with the same seed, on the task with its test split sealed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metier.delta import Delta, LowRank
from metier.errors import BaseMismatch, SealedSplit, UserError
from metier.method import Method, find
from metier.model import Base, Change, Specialist, WeightChange
from metier.model import change as changes_on_disk
from metier.model.loading import fingerprint
from metier.task import Task
from metier.train import Budget, Run

SECTIONS = (("Paper",), ("Shapes", "Units"), ("Cost",), ("Deviations",), ("Errors",))
SHOWN = 6  # examples of dev that are answered
TOLERANCE = 1e-6
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ContractBroken(Exception):
    """A method does not keep the contract; the message names method, clause and what was seen."""


def check_method(
    method: str | Method, *, base: Base, task: Task, settings: Mapping[str, Any] | None = None, budget: Budget | None = None
) -> None:
    """Run a method under the contract. `budget` is what it may train on (16 examples unless given).

    A method of experts is given some, small random changes of the base, unless `settings` name some.
    Raises `ContractBroken` where a clause does not hold, and UserError where the method is not for this base or task.
    """
    found = find(method) if isinstance(method, str) else method
    _suits(found, base, task)
    check_docstring(found)
    with _experts(found, base, settings) as full:
        check_settings(found, full)
        _check_runs(found, base, task, full, budget or Budget(16))


def _check_runs(found: Method, base: Base, task: Task, settings: Mapping[str, Any] | None, budget: Budget) -> None:
    """The method twice with the same seed, and its change saved and loaded."""
    sealed = task.sealed()
    before = _state_of(base, sealed)
    with _own_randomness(1):
        first = _run(found, base, sealed, settings, budget)
        said = _outputs(Specialist(base, (first,)), sealed)
    _unchanged(found, before, _state_of(base, sealed))
    if any(p != p for _, logprobs in said for p in logprobs or ()):
        raise _broken(found, "outputs", "a log-probability is not a number.")
    with _own_randomness(2):  # another state of the global generators: only the run's seed may matter
        again = _run(found, base, sealed, settings, budget)
        repeated = _outputs(Specialist(base, (again,)), sealed)
    if (difference := _state_difference(first, again)) or said != repeated:
        where = difference or "outputs"
        raise _broken(found, "seedable", f"two runs with the same seed differ ({where}). Draw from generators made with run.seed.")
    _saves(found, first, said, base, sealed)
    _unchanged(found, before, _state_of(base, sealed))


def check_docstring(method: Method) -> None:
    """The method file's docstring has the house sections."""
    held = set(re.findall(r"^ {0,4}([A-Z]\w+):(?= )", method.doc, re.MULTILINE)) | set(re.findall(r" {3,}([A-Z]\w+):(?= )", method.doc))
    missing = [" or ".join(names) for names in SECTIONS if not held & set(names)]
    if missing:
        raise _broken(method, "docstring", f"{method.file.name} has no section {', '.join(missing)}. 'none' is an answer, silence is not.")
    if not re.match(r"[^\n:]+: \S", method.doc):
        raise _broken(
            method, "docstring", f"{method.file.name} begins with {method.summary[:40]!r}, not with 'Name: what changes, in one sentence.'"
        )


def check_settings(method: Method, settings: Mapping[str, Any] | None = None) -> None:
    """Settings are a frozen dataclass, documented field by field; wrong names and types are refused, searched values accepted."""
    cls = method.load()[1]
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise _broken(method, "settings", "Settings is not a frozen dataclass.")
    if bare := [s.name for s in method.settings if not s.help]:
        raise _broken(method, "settings", f"no docstring after the field {bare[0]!r}.")
    known = {s.name: s for s in method.settings}
    if unknown := sorted(set(method.about.search) - set(known)):
        raise _broken(method, "settings", f"ABOUT.search names {unknown[0]!r}, which is no setting.")
    _accepts(method, settings or {})
    for name, values in method.about.search.items():
        for value in values:
            _accepts(method, {**(settings or {}), name: value})
    _refuses(method, {**(settings or {}), "no_such_setting": 1}, "no_such_setting", "a setting that it does not have")
    for name in known:
        _refuses(method, {**(settings or {}), name: object()}, name, "a value of a wrong type")


def _suits(method: Method, base: Base, task: Task) -> None:
    about, name = method.about, method.name
    if base.family not in about.families:
        raise UserError(f"{name} works on {', '.join(about.families)}, not on {base.family} ({base.name}). Give another base.")
    if task.kind not in about.kinds:
        raise UserError(f"{name} works on tasks of kind {', '.join(about.kinds)}, not {task.kind} ({task.name}). Give another task.")
    if lacking := [n for n in about.needs if not getattr(task, n, None)]:
        raise UserError(f"{name} needs {lacking[0]}, which task {task.name} has not. Give another task.")
    if not task.dev:
        raise UserError(f"the contract is checked on dev, which task {task.name} has not. Give another task.")


def _accepts(method: Method, values: Mapping[str, Any]) -> None:
    try:
        method.configure(values)
    except (UserError, TypeError) as error:
        raise _broken(method, "settings", f"{dict(values)} is refused: {error}") from error


def _refuses(method: Method, values: Mapping[str, Any], name: str, what: str) -> None:
    try:
        method.configure(values)
    except UserError as error:
        if name not in str(error):
            raise _broken(method, "settings", f"the error on {what} does not name {name!r}: {error}") from error
        return
    except Exception as error:
        raise _broken(method, "settings", f"{what} for {name!r} ends in {type(error).__name__} ({error}), not in UserError.") from error
    raise _broken(method, "settings", f"{what} for {name!r} is accepted. Check it in __post_init__.")


@contextlib.contextmanager
def _experts(method: Method, base: Base, settings: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any] | None]:
    """The settings, for a method of experts that names none with as many as it takes: saved changes of the base, gone after."""
    if "experts" not in {s.name for s in method.settings} or "experts" in (settings or {}):
        yield settings
        return
    least, most = method.about.experts
    with tempfile.TemporaryDirectory(prefix="metier-contract-") as folder:
        places = [Path(folder) / str(i) for i in range(max(least, min(2, most or 2)))]
        for i, place in enumerate(places):
            changes_on_disk.save(WeightChange(_random_change(base, i)), place, base=base.fingerprint)
        yield {**(settings or {}), "experts": tuple(map(str, places))}


def _random_change(base: Base, seed: int) -> Delta:
    """A change of every matrix of the base by a tenth of its size, of rank 2."""
    generator, entries = torch.Generator().manual_seed(seed), {}
    for name, weight in base.model.named_parameters():
        if weight.ndim == 2:
            up, down = (torch.randn(s, generator=generator) for s in ((weight.shape[0], 2), (2, weight.shape[1])))
            entries[name] = LowRank(up, down, 0.1 * float(weight.abs().mean()))
    return Delta(entries, base.fingerprint)


def _run(method: Method, base: Base, task: Task, settings: Mapping[str, Any] | None, budget: Budget) -> Change:
    function, _ = method.load()
    try:
        change = function(Specialist(base), task, method.configure(settings), Run(seed=0, budget=budget))
    except SealedSplit as error:
        raise _broken(method, "sealed", f"it looked at a split that is sealed: {error}") from error
    if not isinstance(change, Change):
        raise _broken(method, "change", f"it returned {type(change).__name__}, not a Change.")
    if change.place != method.about.place:
        raise _broken(method, "change", f"ABOUT says place {method.about.place!r}, the change is made at {change.place!r}.")
    return change


def _outputs(specialist: Specialist, task: Task) -> list[tuple[str, tuple[float, ...] | None]]:
    """(output, log-probabilities of choices) on the first examples of dev."""
    return [(a.output, a.logprobs) for a in specialist.answer(task, list(task.dev)[:SHOWN], seed=0)]


def _saves(method: Method, change: Change, said: list[tuple[str, tuple[float, ...] | None]], base: Base, task: Task) -> None:
    with tempfile.TemporaryDirectory(prefix="metier-contract-") as folder:
        place = Path(folder) / "change"
        try:
            changes_on_disk.save(change, place, base=base.fingerprint)
            loaded = changes_on_disk.load(place, base=base.fingerprint)
        except (UserError, TypeError, ValueError) as error:
            raise _broken(method, "saves", f"its change does not save and load back: {error}") from error
        try:
            changes_on_disk.load(place, base="0" * 64)
        except BaseMismatch:
            pass
        else:
            raise _broken(method, "refuses another base", "its change loads on a base with another fingerprint.")
    if type(loaded) is not type(change):
        raise _broken(method, "saves", f"a {type(change).__name__} loads back as {type(loaded).__name__}.")
    if difference := _state_difference(change, loaded):
        raise _broken(method, "saves", f"the loaded change has another state ({difference}).")
    for i, ((text, ours), (other, theirs)) in enumerate(zip(said, _outputs(Specialist(base, (loaded,)), task), strict=True)):
        apart = max((abs(a - b) for a, b in zip(ours, theirs, strict=True) if a != b), default=0.0) if ours and theirs else 0.0
        if apart > TOLERANCE or (not ours and text != other):
            seen = f"log-probabilities differ by {apart:.2g}" if ours else f"{other!r}, not {text!r}"
            raise _broken(method, "saves", f"loaded back, it answers dev example {i} differently: {seen}.")


def _state_difference(one: Change, other: Change) -> str:
    """What differs between two changes' states, or ''."""
    (facts, tensors), (facts2, tensors2) = one.state(), other.state()
    if json.dumps(facts, sort_keys=True) != json.dumps(facts2, sort_keys=True):
        return f"facts {sorted(k for k in facts if facts[k] != facts2.get(k)) or 'keys'}"
    if set(tensors) != set(tensors2):
        return "names of tensors"
    return next((f"tensor {n!r}" for n in sorted(tensors) if not _same(tensors[n], tensors2[n])), "")


def _same(one: Tensor, other: Tensor) -> bool:
    """Bitwise equal, not-a-number included."""
    one, other = one.detach().cpu().contiguous(), other.detach().cpu().contiguous()
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))
    )


def _state_of(base: Base, task: Task) -> dict[str, Any]:
    """Everything a method must leave as it was, by what a message calls it."""
    model: nn.Module = base.model
    modules = list(model.named_modules())
    parameters = list(model.named_parameters(remove_duplicate=False))
    return {
        "the base's weights": fingerprint(model),
        "the base's modules": [(n, id(m), "forward" in vars(m)) for n, m in modules],
        "the base's parameters (objects)": [(n, id(p)) for n, p in parameters],
        "requires_grad flags": [(n, p.requires_grad) for n, p in parameters],
        "gradients left on parameters": [n for n, p in parameters if p.grad is not None],
        "evaluation mode": [(n, m.training) for n, m in modules],
        "hooks on modules": [(n, h, len(getattr(m, h, ()) or ())) for n, m in modules for h in HOOKS],
        "the base's record": (base.name, base.fingerprint, base.max_length, base.chat, base.truncate, len(base.tokenizer)),
        "the task": (
            dataclasses.replace(task).digest(),
            json.dumps(task.options, sort_keys=True, default=str),
        ),  # a copy knows no digest yet
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's default type": torch.get_default_dtype(),
    }


def _unchanged(method: Method, before: dict[str, Any], after: dict[str, Any]) -> None:
    if changed := [k for k in before if before[k] != after[k]]:
        raise _broken(method, "leaves its inputs unchanged", f"after the run these differ: {', '.join(changed)}.")


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """The global generators set to something for a with-block; the caller's state comes back after."""
    import random

    import numpy

    python, arrays = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed), numpy.random.seed(seed), torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            numpy.random.set_state(arrays)


def _broken(method: Method, clause: str, seen: str) -> ContractBroken:
    return ContractBroken(f"{method.name}: {clause}: {seen}")
