"""What is done, wanted and got wrong in the shop: calls with an error, calls that break a norm, goals with their plans."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from metier.worlds._errand_tools import ITEMS, PEOPLE
from metier.worlds._simulator import ACTIONS, ERRORS, LIMITS, ROLE_NORMS, ROLES, Action, Call, Simulator

THINGS: dict[str, Sequence[str | int]] = {"item": ITEMS, "user": PEOPLE, "post": range(1, 60), "order": range(1, 60)}
LATER = tuple(action for action in ACTIONS.values() if action.after)  # those that need another action first
NO_NORM = "fine"
REFUSAL = "refuse"
GOALS = {  # action -> (the goal, and what is added where a number is wanted)
    "add": ("put the {} into the cart", "{} times"),
    "cancel": ("cancel order {}", "in {} days"),
    "reply": ("answer post {}", "{} times"),
    "invite": ("invite {}", "for {} days"),
    "restock": ("order more of the {}", "{} times"),
    "refund": ("give the money for order {} back", "up to {} coins"),
    "pin": ("pin post {}", "for {} days"),
    "ban": ("ban {}", "for {} days"),
}


class Scene(NamedTuple):
    """What a prompt shows of the shop: tools that are on offer, the role, calls done before, and the call (or goal)."""

    tools: tuple[str, ...]
    role: str
    done: tuple[str, ...]
    call: str
    target: str
    level: int


Fits = Callable[[str], bool]


def failing(rng: random.Random, error: str, fits: Fits) -> Scene:
    """A call, made from a faultless one that `fits`, which fails in just this way. Roles, tools, and what was done before are drawn alike for all errors."""
    action, call = _fitting(rng, LATER, fits)
    role = action.role if error != "not permitted" else _other(action.role)
    thing = action.needs[0]
    before = str(
        Call(action.after, {thing: call.arguments[thing] if error != "wrong order" else _another(rng, thing, call.arguments[thing])})
    )
    if error == "missing argument":
        del call.arguments[thing]
    elif error == "wrong type":
        call.arguments[thing] = _thing(rng, "post" if isinstance(call.arguments[thing], str) else rng.choice(("item", "user")))
    done = [before, str(_call(rng, _pick(rng, LATER)))]
    rng.shuffle(done)
    offered = rng.sample([a for a in ACTIONS if a != action.name], 5)
    if error != "unknown tool":
        offered[int(rng.random() * 5)] = action.name
    return Scene(tuple(offered), role, tuple(done), str(call), error, ERRORS.index(error) + 1)


def judged(rng: random.Random, norm: str, fits: Fits) -> Scene:
    """A call that `fits` and breaks just this norm, or none (`NO_NORM`)."""
    limited = next((name for name, (_, text) in LIMITS.items() if text == norm), "")
    actions = [a for a in LATER if limited in a.may] if limited else [a for a in LATER if norm in (NO_NORM, ROLE_NORMS[a.role])]
    action, call = _fitting(rng, actions, fits, beyond=limited)
    role = _other(action.role) if norm in ROLE_NORMS.values() else action.role
    return Scene((), role, (), str(call), norm, len(call.arguments))


def wanted(rng: random.Random, goals: int, fits: Fits) -> Scene:
    """Goals, the first of which `fits`, and the plan for them: the actions wanted, each after the one that must come first where
    that was not yet done. One scene in eight has a goal that the role may not reach: the plan is to refuse."""
    role = ROLES[int(rng.random() * 2)]
    refused = int(rng.random() * goals) if rng.random() < 0.125 else -1
    done, plan, words, free = [_distraction(rng, _other(role))], list[str](), list[str](), list(LATER)
    for i in range(goals):
        may = [action for action in free if (action.role == role) != (i == refused)]
        action, call = _fitting(rng, may, fits if i == 0 else bool)
        free.remove(action)
        (done if rng.random() < 0.4 else plan).append(_before(action, call.arguments[action.needs[0]]))
        plan.append(str(call))
        words.append(_goal(call))
    if rng.random() < 0.5:
        done.reverse()
    target = REFUSAL if refused >= 0 else "; ".join(plan)
    return Scene((), role, tuple(done), " and ".join(words), target, len(plan) if refused < 0 else 0)


def _goal(call: Call) -> str:
    """The call's purpose in words."""
    goal, extra = GOALS[call.name]
    thing, *number = call.arguments.values()
    return " ".join([goal.format(thing), *(extra.format(n) for n in number)])


def _distraction(rng: random.Random, role: str) -> str:
    """Something done by that role that another role never needs."""
    action = _pick(rng, [action for action in LATER if action.role == role])
    return _before(action, _thing(rng, action.needs[0]))


def _before(action: Action, thing: str | int) -> str:
    """The call that must come before the action on a thing."""
    return str(Call(action.after, {action.needs[0]: thing}))


def _fitting(rng: random.Random, actions: Sequence[Action], fits: Fits, *, beyond: str = "") -> tuple[Action, Call]:
    """One of the actions and a call of it that `fits`: faultless, but for the argument that goes `beyond` its limit."""
    while True:
        action = _pick(rng, actions)
        call = _call(rng, action)
        if beyond:
            call.arguments[beyond] = LIMITS[beyond][0] + 1 + int(rng.random() * 30)
        if fits(str(call)):
            return action, call


def simulator(scene_role: str, done: tuple[str, ...], tools: tuple[str, ...] = ()) -> Simulator:
    """The simulator in the state that a scene shows."""
    made = Simulator(scene_role, tools=tools or None)
    made.reset(done)
    return made


def _call(rng: random.Random, action: Action) -> Call:
    """The action on some thing, with its number as often as not, within all limits."""
    arguments: dict[str, str | int] = {thing: _thing(rng, thing) for thing in action.needs}
    if rng.random() < 0.5:
        arguments[action.may[0]] = 2 + int(rng.random() * (LIMITS[action.may[0]][0] - 1))
    return Call(action.name, arguments)


def _thing(rng: random.Random, kind: str) -> str | int:
    pool = THINGS[kind]
    return pool[int(rng.random() * len(pool))]


def _another(rng: random.Random, kind: str, than: str | int) -> str | int:
    while (thing := _thing(rng, kind)) == than:
        pass
    return thing


def _other(role: str) -> str:
    return ROLES[1 - ROLES.index(role)]


def _pick(rng: random.Random, actions: Sequence[Action]) -> Action:
    return actions[int(rng.random() * len(actions))]
