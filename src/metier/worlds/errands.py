"""Errands: requests to call tools, plans in a small shop and forum with norms, calls that fail, dialogues with a state."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from metier.task.example import Example
from metier.task.task import Kind, Task
from metier.worlds._errands import catalogue, dialogues, shop, simulator
from metier.worlds._errands.simulator import NORMS, Simulator
from metier.worlds._shared.draws import pick, sample, shuffle
from metier.worlds._shared.sides import side_of
from metier.worlds.base import Sheet, World

SIZES = {"train": 600, "dev": 100, "test": 200}
OOD = {"ood": 200}
TEMPLATES = {
    "errands-call": "Tools: {{ tools }}\nRequest: {{ request }}\nCall:",
    "errands-pick": "Tools: {{ tools }}\nRequest: {{ request }}\nTool:",
    "errands-plan": "Role: {{ role }}\nDone: {{ done }}\nGoal: {{ goal }}\nPlan:",
    "errands-error": "Tools: {{ tools }}\nRole: {{ role }}\nDone: {{ done }}\nCall: {{ call }}\nError:",
    "errands-norm": "Role: {{ role }}\nCall: {{ call }}\nNorm:",
    "errands-state": "{{ dialogue }}\nState:",
}
JUDGEMENTS = (shop.NO_NORM, *NORMS)
Drawn = tuple[dict[str, Any], str, tuple[str, ...] | None]  # fields, target, choices
Fits = Callable[[str], bool]


class Errands(World):
    """Typed tools, similar ones on purpose, a shop with a forum that has norms, and dialogues about bookings.

    Guarantees: no request, scene or dialogue is in two splits or in the corpus (sides by checksum). `errands-call`: the call
    holds just the values that the request names; where one is missing the answer asks for it (`ask(minutes)`), where no tool
    is needed it is `none`; `ood` has tools that occur nowhere else. `errands-pick`: each place among the four tools is right
    equally often, and the list alone tells nothing. `errands-plan`: the target plan runs without error and brings the wanted
    state (`reaches` judges any other plan by the state it brings); where the role may not, it is `refuse`; `ood` has three goals
    instead of one or two. `errands-error`: this error and nothing else is wrong, by the signatures shown: what number a
    tool takes, and whether it must, changes from scene to scene (`level` is the error's place in the order of checks). Words of the
    scene find a fifth of the errors, as chance does, counted or merely present; three words in a row show a wrong type (a name beside its
    value) and no other error. The corpus shows such calls with the shop's own signatures only, and there a missing argument shortens the
    call. `errands-norm`: the norm that a call would break, or `fine`.
    `errands-state`: slots and values after 2 to 6 turns, `ood` 7 or 8. Errors, norms and places are balanced; of `errands-call` 70 % are
    calls. The simulator never raises.
    """

    docs = "tools to call, plans in a shop with norms, failing calls, dialogue states"

    def corpus(self, era: int = 0) -> Iterator[str]:
        """Solved items of all tasks, one to five in a document, and what each tool does."""
        rng = self.rng("corpus", era)
        names = tuple(TEMPLATES)
        shown = {name: _blanks(template) for name, template in TEMPLATES.items()}
        fits, turn = _fits("corpus"), 0
        while True:
            draw = int(rng.random() * (len(names) + 1))
            if draw == len(names):
                yield _manual(rng)
                continue
            name, solved = names[draw], []
            for _ in range(1 + int(rng.random() * (5 if name != "errands-state" else 3))):
                turn += 1
                fields, target, _choices = _DRAW_CORPUS[name](rng, turn, False, fits)
                solved.append(f"{shown[name].format_map(fields)} {target}")
            yield "\n\n".join(solved)

    def sheets(self) -> dict[str, Sheet]:
        """The six tasks."""
        choices = {"errands-error": simulator.ERRORS, "errands-norm": JUDGEMENTS}
        made = {}
        for name, template in TEMPLATES.items():
            chooses = name in ("errands-pick", *choices)
            kind: Kind = "choose" if chooses else "generate"
            metric = "accuracy" if chooses else "exact"
            task = Task(name=name, kind=kind, template=template, metric=metric, choices=choices.get(name, ()), max_new_tokens=64)
            made[name] = Sheet(task, SIZES if name in choices else SIZES | OOD, _rows_of(self, name))
        return made

    def truth(self) -> dict[str, Any]:
        """Tools with their requests and values, actions of the shop, norms, slots."""
        return {
            "tools": [tool._asdict() for tool in (*catalogue.TOOLS, *catalogue.NEW_TOOLS)],
            "values": {name: list(pool) for name, pool in catalogue.POOLS.items()},
            "actions": [action._asdict() for action in simulator.ACTIONS.values()],
            "norms": list(NORMS),
            "limits": simulator.LIMITS,
            "errors": list(simulator.ERRORS),
            "slots": dialogues.SLOTS,
        }

    def tools(self) -> Sequence[Mapping[str, Any]]:
        """All tools of the errands, then the actions of the shop, as JSON schemas."""
        every = (*catalogue.TOOLS, *catalogue.NEW_TOOLS)
        return [*(simulator.function(t.name, t.about, t.parameters, whole=catalogue.WHOLE) for t in every), *simulator.schemas()]

    @staticmethod
    def simulator(example: Example) -> Simulator:
        """The shop in the state that an example of `errands-plan`, `errands-error` or `errands-norm` shows."""
        return shop.simulator(example.fields["role"], example.fields.get("before", ()), example.fields.get("offered", ()))

    def reaches(self, plan: str, example: Example) -> bool:
        """True if the plan brings the same state of the shop as the target plan, or refuses where that is right."""
        if shop.REFUSAL in (plan.strip(), example.answer):
            return plan.strip() == example.answer
        return self.simulator(example).run(plan) == self.simulator(example).run(example.answer)

    def violates(self, call: str, role: str) -> str | None:
        """The norm that the call would break if this role made it, or None."""
        return Simulator(role).violates(call)

    def _rows(self, name: str, split: str) -> Iterator[Example]:
        rng, draw, unseen, fits = self.rng(name, split), _DRAW[name], split == "ood", _fits(split)
        for i in itertools.count():
            fields, target, choices = draw(rng, i, unseen, fits)
            yield Example(f"{name}-{split}-{i:05d}", fields, target, choices)


def _rows_of(world: Errands, name: str) -> Callable[[str], Iterator[Example]]:
    return lambda split: world._rows(name, split)


def _fits(side: str) -> Fits:
    """Tells the texts of a side; whatever is drawn for `ood` fits, since it differs otherwise."""
    return bool if side == "ood" else lambda text: side_of(text) == side


def _blanks(template: str) -> str:
    """The template as `str.format` reads it, which is many times faster than Jinja."""
    return template.replace("{{ ", "{").replace(" }}", "}")


def _manual(rng: random.Random) -> str:
    """What some tools do and are called with."""
    tools = [(t.signature, t.about) for t in rng.sample(catalogue.TOOLS, 3)]
    actions = [(a.signature, f"{a.about}, {a.role} only" + (f", after {a.after}" if a.after else "")) for a in rng.sample(shop.LATER, 2)]
    return "\n".join(f"Tool: {signature}\nUse: {about}" for signature, about in (*tools, *actions))


def _draw_call(rng: random.Random, turn: int, unseen: bool, fits: Fits) -> Drawn:
    tools = catalogue.NEW_TOOLS if unseen else catalogue.TOOLS
    draw = rng.random()
    ask = catalogue.called if draw < 0.7 else catalogue.asked if draw < 0.85 else catalogue.unneeded
    request = ask(rng, tools, fits)
    around = request.tool or tools[int(rng.random() * len(tools))]
    shown = _beside(rng, around, 2)
    fields = {
        "tools": ", ".join(tool.signature for tool in shown),
        "request": request.text,
        "kind": request.kind,
        "level": request.output.count("="),
    }
    return fields, request.output, None


def _draw_pick(rng: random.Random, turn: int, unseen: bool, fits: Fits) -> Drawn:
    request = catalogue.called(rng, catalogue.NEW_TOOLS if unseen else catalogue.TOOLS, fits)
    tool = request.tool
    if tool is None:
        raise RuntimeError("errands: a request for a call has a tool")
    shown = _beside(rng, tool, 3)
    listed = "; ".join(f"{t.name}: {t.about}" for t in shown)
    fields = {"tools": listed, "request": request.text, "group": tool.group, "level": len(tool.parameters)}
    return fields, tool.name, tuple(t.name for t in shown)


def _beside(rng: random.Random, tool: catalogue.Tool, others: int) -> list[catalogue.Tool]:
    """The tool among others of its group (or of all new tools), in random order."""
    new = tool in catalogue.NEW_TOOLS
    pool = catalogue.NEW_TOOLS if new else catalogue.TOOLS
    similar = [t for t in pool if t is not tool and (new or t.group == tool.group)]
    shown = [tool, *sample(rng, similar, others)]
    shuffle(rng, shown)
    return shown


def _draw_plan(rng: random.Random, turn: int, unseen: bool, fits: Fits) -> Drawn:
    goals = 3 if unseen else 1 + turn % 2
    scene = shop.wanted(rng, goals, fits)
    fields = {
        "role": scene.role,
        "done": "; ".join(scene.done),
        "before": scene.done,
        "goal": scene.call,
        "level": scene.level,
        "goals": goals,
    }
    return fields, scene.target, None


def _draw_error(rng: random.Random, turn: int, unseen: bool, fits: Fits) -> Drawn:
    return _error(shop.failing(rng, pick(rng, simulator.ERRORS), fits))


def _draw_error_plainly(rng: random.Random, turn: int, unseen: bool, fits: Fits) -> Drawn:
    return _error(shop.failing_plainly(rng, pick(rng, simulator.ERRORS), fits))


def _error(scene: shop.Scene) -> Drawn:
    fields = {
        "tools": ", ".join(scene.tools),
        "offered": scene.tools,
        "role": scene.role,
        "done": "; ".join(scene.done),
        "before": scene.done,
        "call": scene.call,
        "level": scene.level,
    }
    return fields, scene.target, None


def _draw_norm(rng: random.Random, turn: int, unseen: bool, fits: Fits) -> Drawn:
    scene = shop.judged(rng, JUDGEMENTS[int(rng.random() * len(JUDGEMENTS))], fits)
    return {"role": scene.role, "call": scene.call, "level": scene.level}, scene.target, None


def _draw_state(rng: random.Random, turn: int, unseen: bool, fits: Fits) -> Drawn:
    dialogue = dialogues.invent(rng, 7 + turn % 2 if unseen else 2 + turn % 5, fits)
    fields = {"dialogue": dialogue.text, "turns": dialogue.turns, "changes": dialogue.changes, "level": dialogue.turns}
    return fields, dialogue.state, None


_DRAW: dict[str, Callable[[random.Random, int, bool, Fits], Drawn]] = {
    "errands-call": _draw_call,
    "errands-pick": _draw_pick,
    "errands-plan": _draw_plan,
    "errands-error": _draw_error,
    "errands-norm": _draw_norm,
    "errands-state": _draw_state,
}
_DRAW_CORPUS = _DRAW | {"errands-error": _draw_error_plainly}
