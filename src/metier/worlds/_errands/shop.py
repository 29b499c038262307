"""What is done, wanted and got wrong in the shop: calls with an error, calls that break a norm, goals with their plans."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from metier.worlds._errands.catalogue import ITEMS, PEOPLE
from metier.worlds._errands.simulator import ACTIONS, ERRORS, KINDS, LIMITS, ROLE_NORMS, ROLES, SIGNATURES, Action, Call, Simulator
from metier.worlds._shared.draws import pick, sample, shuffle

THINGS: dict[str, Sequence[str | int]] = {"item": ITEMS, "user": PEOPLE, "post": range(1, 60), "order": range(1, 60)}
LATER = tuple(action for action in ACTIONS.values() if action.after)  # those that need another action first
_FIRST = tuple(SIGNATURES[action.name] for action in ACTIONS.values() if not action.after)
_LATER_BUT = {action.name: [a for a in LATER if a is not action] for action in LATER}
_LATER_BUT_TWO = {(name, b.name): [a for a in rest if a is not b] for name, rest in _LATER_BUT.items() for b in rest}
_PARTNER = {action.name: next(a for a in _LATER_BUT[action.name] if a.needs == action.needs) for action in LATER}  # of the other role
_OF_OTHER_TYPE = {action.name: [a for a in LATER if KINDS[a.needs[0]] is not KINDS[action.needs[0]]] for action in LATER}
_NUMBERS = tuple(LIMITS)
_TAKING = {
    (a.name, n, need): f"{a.name}({a.needs[0]}, {n}{'' if need else '?'})" for a in LATER for n in _NUMBERS for need in (True, False)
}
_LATER_OF = {role: [action for action in LATER if action.role == role] for role in ROLES}
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
    """What a prompt shows of the shop: signatures of the tools on offer, the role, calls done before, and the call (or goal)."""

    tools: tuple[str, ...]
    role: str
    done: tuple[str, ...]
    call: str
    target: str
    level: int


Fits = Callable[[str], bool]


def failing(rng: random.Random, error: str, fits: Fits) -> Scene:
    """A call, in a scene that `fits`, which fails in just this way; every word occurs, and occurs twice, as often under each error.

    What number a tool takes, and whether it must, changes from scene to scene, so that only the signature tells whether one is missing.
    Of two things of a kind, one was seen by each role: the call is about its own role's, or about the other if the order is wrong.
    Another tool was used too, on a thing of another type: it is on offer where the call's is not, and is not where that is.
    """
    action = pick(rng, LATER)
    used = pick(rng, _OF_OTHER_TYPE[action.name])
    while True:
        text, given, done = _called(rng, action, used, error)
        if fits(f"{done[0]}; {done[1]}; {text}"):
            break
    offered = _signatures(rng, action, used, given, error)
    shuffle(rng, done)
    shuffle(rng, offered)
    role = _other(action.role) if error == "not permitted" else action.role
    return Scene(tuple(offered), role, tuple(done), text, error, ERRORS.index(error) + 1)


def _called(rng: random.Random, action: Action, used: Action, error: str) -> tuple[str, str, list[str]]:
    """A call of the action, the name of the number that it gives ('' as often as not), and what was done before: on one thing by each
    role, and what was `used` on a thing of another type, which a call with the wrong type is about."""
    kind = action.needs[0]
    mine, apart = _thing(rng, kind), _thing(rng, used.needs[0])
    others = _another(rng, kind, mine)
    about = {"wrong type": apart, "wrong order": others}.get(error, mine)
    done = [
        _before(action, mine),
        _before(_PARTNER[action.name], others),
        _before(used, apart),
        f"{used.name}({used.needs[0]}={apart})",
    ]
    if rng.random() < 0.5:
        return f"{action.name}({kind}={about})", "", done
    number = pick(rng, _NUMBERS)
    return f"{action.name}({kind}={about}, {number}={2 + int(rng.random() * (LIMITS[number][0] - 1))})", number, done


def _signatures(rng: random.Random, action: Action, used: Action, given: str, error: str) -> list[str]:
    """Three to seven tools on offer, the action among them (the one that was `used` if it is unknown), such that its call, with the number
    that is `given`, lacks one or does not. Two to four of them take a number; one of them at least must have it, and one at least need
    not, whatever the error; a number that is given is taken by one of the first two, and not by the other."""
    known, lacks = used if error == "unknown tool" else action, error == "missing argument"
    taking = [known, *sample(rng, _LATER_BUT_TWO[action.name, used.name], 1 + int(rng.random() * 3))]
    numbers = [pick(rng, _NUMBERS) for _ in taking]
    needed = [True, False, *(rng.random() < 0.5 for _ in taking[2:])]
    shuffle(rng, needed)
    if lacks or known is used or not given:
        at = needed.index(lacks)
        needed[0], needed[at] = lacks, needed[0]
    if given:
        numbers[:2] = given, pick(rng, [name for name in _NUMBERS if name != given])
        if lacks or (known is used and rng.random() < 0.5):
            numbers[:2] = numbers[1::-1]
    made = [_TAKING[a.name, number, need] for a, number, need in zip(taking, numbers, needed, strict=True)]
    return made + sample(rng, _FIRST, 1 + int(rng.random() * 3))


def failing_plainly(rng: random.Random, error: str, fits: Fits) -> Scene:
    """As `failing`, for the corpus: with the shop's own signatures, which it teaches, and shorter calls where an argument is missing. There are
    two because the embedded bases have read these very bytes, and a task must not show what the length of a call tells."""
    action, call, _ = _fitting(rng, LATER, fits)
    role = action.role if error != "not permitted" else _other(action.role)
    thing = action.needs[0]
    before = str(
        Call(action.after, {thing: call.arguments[thing] if error != "wrong order" else _another(rng, thing, call.arguments[thing])})
    )
    if error == "missing argument":
        del call.arguments[thing]
    elif error == "wrong type":
        call.arguments[thing] = _thing(rng, "post" if isinstance(call.arguments[thing], str) else rng.choice(("item", "user")))
    done = [before, str(_call(rng, pick(rng, LATER)))]
    shuffle(rng, done)
    offered = sample(rng, [a for a in ACTIONS if a != action.name], 5)
    if error != "unknown tool":
        offered[int(rng.random() * 5)] = action.name
    return Scene(tuple(SIGNATURES[name] for name in offered), role, tuple(done), str(call), error, ERRORS.index(error) + 1)


def judged(rng: random.Random, norm: str, fits: Fits) -> Scene:
    """A call that `fits` and breaks just this norm, or none (`NO_NORM`)."""
    limited = next((name for name, (_, text) in LIMITS.items() if text == norm), "")
    actions = [a for a in LATER if limited in a.may] if limited else [a for a in LATER if norm in (NO_NORM, ROLE_NORMS[a.role])]
    action, call, text = _fitting(rng, actions, fits, beyond=limited)
    role = _other(action.role) if norm in ROLE_NORMS.values() else action.role
    return Scene((), role, (), text, norm, len(call.arguments))


def wanted(rng: random.Random, goals: int, fits: Fits) -> Scene:
    """Goals, the first of which `fits`, and the plan for them: the actions wanted, each after the one that must come first where
    that was not yet done. One scene in eight has a goal that the role may not reach: the plan is to refuse."""
    role = ROLES[int(rng.random() * 2)]
    refused = int(rng.random() * goals) if rng.random() < 0.125 else -1
    done, free = [_distraction(rng, _other(role))], list(LATER)
    plan: list[str] = []
    words: list[str] = []
    for i in range(goals):
        may = [action for action in free if (action.role == role) != (i == refused)]
        action, call, text = _fitting(rng, may, fits if i == 0 else bool)
        free.remove(action)
        (done if rng.random() < 0.4 else plan).append(_before(action, call.arguments[action.needs[0]]))
        plan.append(text)
        words.append(_goal(call))
    if rng.random() < 0.5:
        done.reverse()
    target = REFUSAL if refused >= 0 else "; ".join(plan)
    return Scene((), role, tuple(done), " and ".join(words), target, len(plan) if refused < 0 else 0)


def _goal(call: Call) -> str:
    """The call's purpose in words."""
    goal, extra = GOALS[call.name]
    thing, *number = call.arguments.values()
    return f"{goal.format(thing)} {extra.format(*number)}" if number else goal.format(thing)


def _distraction(rng: random.Random, role: str) -> str:
    """Something done by that role that another role never needs."""
    action = pick(rng, _LATER_OF[role])
    return _before(action, _thing(rng, action.needs[0]))


def _before(action: Action, thing: str | int) -> str:
    """The call that must come before the action on a thing."""
    return f"{action.after}({action.needs[0]}={thing})"


def _fitting(rng: random.Random, actions: Sequence[Action], fits: Fits, *, beyond: str = "") -> tuple[Action, Call, str]:
    """One of the actions, a call of it, and its text, which `fits`: faultless, but for the argument that goes `beyond` its limit."""
    while True:
        action = pick(rng, actions)
        call = _call(rng, action)
        if beyond:
            call.arguments[beyond] = LIMITS[beyond][0] + 1 + int(rng.random() * 30)
        if fits(text := str(call)):
            return action, call, text


def simulator(scene_role: str, done: tuple[str, ...], tools: tuple[str, ...] = ()) -> Simulator:
    """The simulator in the state that a scene shows."""
    made = Simulator(scene_role, tools=tools or None)
    made.reset(done)
    return made


def _call(rng: random.Random, action: Action) -> Call:
    """The action on some thing, with its number as often as not, within all limits."""
    draw, kind, number = rng.random, action.needs[0], action.may[0]
    arguments = {kind: THINGS[kind][int(draw() * len(THINGS[kind]))]}
    if draw() < 0.5:
        arguments[number] = 2 + int(draw() * (LIMITS[number][0] - 1))
    return Call(action.name, arguments)


def _thing(rng: random.Random, kind: str) -> str | int:
    return pick(rng, THINGS[kind])


def _another(rng: random.Random, kind: str, than: str | int) -> str | int:
    while (thing := _thing(rng, kind)) == than:
        pass
    return thing


def _other(role: str) -> str:
    return ROLES[1 - ROLES.index(role)]
