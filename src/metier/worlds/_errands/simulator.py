"""Simulator: a small shop with a forum that answers calls, keeps its state, and has norms for what each role may do."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("member", "staff")
KINDS = {"item": str, "user": str, "post": int, "order": int, "count": int, "days": int, "amount": int}
LIMITS = {"count": (5, "at most 5 at once"), "days": (30, "at most 30 days"), "amount": (50, "at most 50 coins")}
ROLE_NORMS = {"member": "members only", "staff": "staff only"}
NORMS = (*ROLE_NORMS.values(), *(norm for _, norm in LIMITS.values()))
ERRORS = ("unknown tool", "missing argument", "wrong type", "not permitted", "wrong order")


class Action(NamedTuple):
    """What the simulator can do: `needs` what it is called with, `may` what it can do without, `role` who may call it,
    `after` the action that must come before with the same first argument, `about` in words."""

    name: str
    needs: tuple[str, ...]
    may: tuple[str, ...]
    role: str
    after: str
    about: str

    @property
    def signature(self) -> str:
        """'add(item, count?)'."""
        return f"{self.name}({', '.join([*self.needs, *(f'{a}?' for a in self.may)])})"


ACTIONS: dict[str, Action] = {
    row[0]: Action(*row)
    for row in (
        ("find", ("item",), (), "member", "", "find an item"),
        ("add", ("item",), ("count",), "member", "find", "put an item into the cart"),
        ("open", ("order",), (), "member", "", "look at an order"),
        ("cancel", ("order",), ("days",), "member", "open", "cancel an order"),
        ("read", ("post",), (), "member", "", "read a post"),
        ("reply", ("post",), ("count",), "member", "read", "answer a post"),
        ("follow", ("user",), (), "member", "", "follow a user"),
        ("invite", ("user",), ("days",), "member", "follow", "invite a user"),
        ("inspect", ("item",), (), "staff", "", "count the stock of an item"),
        ("restock", ("item",), ("count",), "staff", "inspect", "order more of an item"),
        ("check", ("order",), (), "staff", "", "check an order"),
        ("refund", ("order",), ("amount",), "staff", "check", "give the money of an order back"),
        ("review", ("post",), (), "staff", "", "review a post"),
        ("pin", ("post",), ("days",), "staff", "review", "pin a post"),
        ("warn", ("user",), (), "staff", "", "warn a user"),
        ("ban", ("user",), ("days",), "staff", "warn", "ban a user"),
    )
}
SIGNATURES = {name: action.signature for name, action in ACTIONS.items()}


def offered(signature: str) -> Action:
    """The action of that name; where the text goes on ('add(item, days)'), it says what the action takes instead."""
    name, _, inside = signature.rstrip(")").partition("(")
    if not inside:
        return ACTIONS[name]
    takes = inside.split(", ")
    return ACTIONS[name]._replace(
        needs=tuple(p for p in takes if not p.endswith("?")),
        may=tuple(p[:-1] for p in takes if p.endswith("?")),
    )


class Call(NamedTuple):
    """A call: a name and its arguments in order."""

    name: str
    arguments: dict[str, str | int]

    def __str__(self) -> str:
        return f"{self.name}({', '.join([f'{k}={v}' for k, v in self.arguments.items()])})"


class Step(NamedTuple):
    """What a call brought: an observation ('ok: ...' or 'error: ...'), the state after it, and whether all is over."""

    observation: str
    state: dict[str, Any]
    done: bool


def parse(text: str) -> Call | None:
    """'name(arg=value, ...)' as a call; None where the text is none. Values are whole numbers, words, or quoted words."""
    name, opened, rest = text.strip().partition("(")
    if not opened or not rest.endswith(")") or not name.isidentifier():
        return None
    arguments: dict[str, str | int] = {}
    for part in filter(None, (p.strip() for p in rest[:-1].split(","))):
        key, equals, raw = (p.strip() for p in part.partition("="))
        value = _value(raw)
        if not equals or not key.isidentifier() or key in arguments or value is None:
            return None
        arguments[key] = value
    return Call(name, arguments)


def _value(raw: str) -> str | int | None:
    if raw.isidentifier():
        return raw
    try:
        value = ast.literal_eval(raw)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if type(value) in (int, str) else None


class Simulator:
    """A shop with a forum, seen by one role.

    Every action leaves its mark in the state: which things it was done to, with the number given (or 1). `reset` starts
    anew, with what others already did; `step` answers one call. A call that is no call, or fails, changes nothing and gives an
    error as its observation; nothing raises. `finish()` ends the episode, as does the last of `steps` calls. `tools` are those on
    offer: names, or signatures of their own ('add(item, days)').
    """

    def __init__(self, role: str = "member", *, tools: Sequence[str] | None = None, steps: int = 20) -> None:
        self.role, self.steps = role, steps
        self.tools = {**ACTIONS} if tools is None else {action.name: action for action in map(offered, tools)}
        self.reset()

    def reset(self, done: Sequence[str] = ()) -> dict[str, Any]:
        """Forgets everything but the calls of `done`, which count as done whoever did them; returns the state."""
        self._marks: dict[str, dict[str, int]] = {}
        self._taken, self._over = 0, False
        for text in done:
            if (call := parse(text)) is not None and _broken(call, ACTIONS) is None:
                self._mark(call)
        return self.state()

    def state(self) -> dict[str, Any]:
        """Action -> thing -> number, sorted: {'add': {'cup': 2}}."""
        return {name: dict(sorted(things.items())) for name, things in sorted(self._marks.items())}

    def step(self, text: str) -> Step:
        """Answers one call."""
        if self._over:
            return Step("error: the episode is over", self.state(), True)
        self._taken += 1
        if text.strip() == "finish()":
            self._over = True
            return Step("ok: finished", self.state(), True)
        call, error = parse(text), self.error(text)
        if call is not None and error is None:
            self._mark(call)
        self._over = self._taken >= self.steps
        return Step(f"error: {error}" if error else f"ok: {call}", self.state(), self._over)

    def run(self, plan: str) -> dict[str, Any]:
        """The state after the calls of a plan ('a(x=1); b(y=2)')."""
        for text in filter(str.strip, plan.split(";")):
            self.step(text.strip())
        return self.state()

    def error(self, text: str) -> str | None:
        """What is wrong with a call in the present state, first of: malformed call, then `ERRORS` in their order (a missing argument
        before an unknown one); None if nothing is."""
        call = parse(text)
        if call is None:
            return "malformed call"
        if broken := _broken(call, self.tools):
            return broken
        if self.violates(text) is not None:
            return "not permitted"
        action = self.tools[call.name]
        if action.after and _thing(call) not in self._marks.get(action.after, {}):
            return "wrong order"
        return None

    def violates(self, text: str) -> str | None:
        """The norm that a well-formed call would break, or None."""
        call = parse(text)
        if call is None or _broken(call, self.tools) is not None:
            return None
        action = self.tools[call.name]
        if action.role != self.role:
            return ROLE_NORMS[action.role]
        for name, value in call.arguments.items():
            if name in LIMITS and int(value) > LIMITS[name][0]:
                return LIMITS[name][1]
        return None

    def _mark(self, call: Call) -> None:
        number = next((int(value) for name, value in call.arguments.items() if name in LIMITS), 1)
        marks = self._marks.setdefault(call.name, {})
        marks[_thing(call)] = marks.get(_thing(call), 0) + number


def _broken(call: Call, tools: Mapping[str, Action]) -> str | None:
    """What is wrong with the call whatever the state and whoever calls."""
    action = tools.get(call.name)
    if action is None:
        return "unknown tool"
    if any(name not in call.arguments for name in action.needs):
        return "missing argument"
    if any(name not in (*action.needs, *action.may) for name in call.arguments):
        return "unknown argument"
    return "wrong type" if any(type(value) is not KINDS[name] for name, value in call.arguments.items()) else None


def _thing(call: Call) -> str:
    return str(call.arguments[ACTIONS[call.name].needs[0]])


def schemas(actions: Mapping[str, Action] = ACTIONS) -> list[dict[str, Any]]:
    """The actions as JSON schemas of functions."""
    return [function(a.name, a.about, a.needs, a.may) for a in actions.values()]


def function(name: str, about: str, needs: Sequence[str], may: Sequence[str] = (), whole: Sequence[str] = ()) -> dict[str, Any]:
    """A function as a JSON schema; parameters of `KINDS` have its type, those in `whole` are integers, others strings."""
    kinds = {p: "integer" if p in whole or KINDS.get(p) is int else "string" for p in (*needs, *may)}
    parameters = {"type": "object", "properties": {p: {"type": kind} for p, kind in kinds.items()}, "required": list(needs)}
    return {"name": name, "description": about, "parameters": parameters | {"additionalProperties": False}}
