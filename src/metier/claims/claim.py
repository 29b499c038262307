"""Claim: what a paper says, the small experiment that tests it, and the rule of decision, fixed before anything runs.

A claim file holds a docstring, `CLAIM = Claim(...)` with literal arguments and a function `run(lab)` that returns
`Found`. `catalogue()` reads the first two from the syntax tree, so that listing claims never imports torch.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib
import json
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metier import check
from metier.errors import UserError, nearest

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim and how it is decided.

    row         row of the literature list, None for a study of this project's own
    statement   what the paper says, in our words              reported  the paper's number, or that it gives none
    experiment  what is run here                               limits    what the experiment leaves open
    rule        effect -> threshold: the claim holds where every effect's interval lies above its threshold
    needs       effect -> threshold: without these the experiment says nothing
    bases       the bases it runs on                           seeds     how many seeds, from 0
    trials      trials a seed                                  minutes   on two cores, about
    version     raised by any change of the file that can move the verdict; earlier results then no longer count
    """

    row: int | None
    title: str
    statement: str
    reported: str
    experiment: str
    rule: Mapping[str, float]
    needs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    limits: str = ""
    bases: tuple[str, ...] = ("metier-tiny",)
    seeds: int = 3
    trials: int = 1
    minutes: float = 10.0
    version: int = 1

    def __post_init__(self) -> None:
        for name in ("seeds", "trials", "version"):
            check.integer(name, getattr(self, name), low=1)
        if not self.rule or set(self.rule) & set(self.needs):
            raise UserError("rule: must name at least one effect, and none that `needs` names.")
        for name, threshold in {**self.rule, **self.needs}.items():
            check.number(name, threshold)

    def digest(self) -> str:
        """16 hex digits of what a result depends on; it changes when the claim does."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def spoken(self) -> str:
        """The rule as a sentence."""
        wanted = " and ".join(f"'{name}' is above {threshold:g}" for name, threshold in self.rule.items())
        unless = " and ".join(f"'{name}' is above {threshold:g}" for name, threshold in self.needs.items())
        return f"Holds if {wanted}" + (f", provided that {unless}" if unless else "") + "; each with its whole 95 % interval."


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A claim file: its name ('lt-sft'), stem ('r025_lt_sft'), module, docstring and claim."""

    name: str
    stem: str
    module: str
    file: Path
    doc: str
    claim: Claim

    def load(self) -> Callable[..., Any]:
        """Import the file: its function `run`."""
        run: Callable[..., Any] = importlib.import_module(self.module).run
        return run


@functools.cache
def catalogue() -> Mapping[str, Entry]:
    """Every claim by name: papers by row, then studies."""
    found = [e for f in sorted(FOLDER.glob("*.py")) if (e := read(f))]
    found.sort(key=lambda e: (e.claim.row is None, e.claim.row or 0, e.name))
    return types.MappingProxyType({e.name: e for e in found})


def read(file: Path) -> Entry | None:
    """The claim a file states, read from its syntax tree; None where it states none."""
    tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    call = next((n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "CLAIM"), None)
    if not isinstance(call, ast.Call):
        return None
    if not any(isinstance(n, ast.FunctionDef) and n.name == "run" for n in tree.body):
        raise UserError(f"{file}: a claim file needs a function run(lab).")
    claim = Claim(**{k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg})
    name = file.stem
    if claim.row is not None:
        start = f"r{claim.row:03d}_"
        if not name.startswith(start):
            raise UserError(f"{file}: the claim is about row {claim.row}, so its file's name must start with {start!r}.")
        name = name.removeprefix(start)
    return Entry(name.replace("_", "-"), file.stem, f"metier.claims.{file.stem}", file, ast.get_docstring(tree) or "", claim)


def find(name: str) -> Entry:
    """The claim of that name, or of that row of the literature list."""
    claims = catalogue()
    if name.isdigit():
        rows = [e for e in claims.values() if e.claim.row == int(name)]
        if not rows:
            known = ", ".join(f"{e.claim.row} ({e.name})" for e in claims.values() if e.claim.row is not None)
            raise UserError(f"claims: no claim of paper {name} is written yet. There are: {known}.")
        return rows[0]
    if name not in claims:
        raise UserError(f"claims: unknown claim {name!r}.{nearest(name, claims)} A paper's number will do too.")
    return claims[name]
