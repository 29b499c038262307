"""Questions about a small database with the SQL that answers them: 23 shapes on five levels, four styles of asking."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from metier.worlds._schemas import KNOWN, UNSEEN, Database, Table

STYLES = ("plain", "terse", "synonyms", "chatty")
FUNCTIONS = {"avg": "average", "max": "highest", "min": "lowest", "sum": "total"}
CHAT = (
    "hi, i am new here.",
    "i have a meeting at noon.",
    "my boss wants this today.",
    "it rains outside.",
    "thanks for the help last week.",
    "i need this for a report.",
)
SYNONYMS = KNOWN.synonyms() | UNSEEN.synonyms()


class Shape(NamedTuple):
    """One form of query. Slots: t table, o one row of it; c, x, n a column of any kind, of text, of numbers; v a value of x;
    k a number; m a small count; f a function of SQL and g its word; for the parent table p, q, d, y, w in place of t, o, c, x, v."""

    level: int
    name: str
    sql: str
    plain: str
    terse: str


_JOIN = "from {t} join {p} on {t}.{key} = {p}.id"

SHAPES = tuple(
    Shape(*row)
    for row in (
        (1, "all", "select {c} from {t}", "show the {C} of all {T}", "{C}, all {T}"),
        (1, "equal", "select {c} from {t} where {x} = '{v}'", "show the {C} of {T} whose {X} is {v}", "{C}, {T}, {X} {v}"),
        (1, "over", "select {c} from {t} where {n} > {k}", "show the {C} of {T} whose {N} is more than {k}", "{C}, {T}, {N} > {k}"),
        (1, "under", "select {c} from {t} where {n} < {k}", "show the {C} of {T} whose {N} is less than {k}", "{C}, {T}, {N} < {k}"),
        (1, "both", "select {c} from {t} where {x} = '{v}' and {n} > {k}",
         "show the {C} of {T} whose {X} is {v} and whose {N} is more than {k}", "{C}, {T}, {X} {v}, {N} > {k}"),
        (2, "count", "select count(*) from {t} where {x} = '{v}'", "how many {T} have the {X} {v}", "count, {T}, {X} {v}"),
        (2, "number", "select {f}({n}) from {t}", "what is the {g} {N} of all {T}", "{g} {N}, all {T}"),
        (2, "number where", "select {f}({n}) from {t} where {x} = '{v}'",
         "what is the {g} {N} of {T} whose {X} is {v}", "{g} {N}, {T}, {X} {v}"),
        (2, "sorted", "select {c} from {t} order by {n}", "show the {C} of all {T} sorted by {N}", "{C}, all {T}, by {N}"),
        (2, "top", "select {c} from {t} order by {n} desc limit {m}",
         "show the {C} of the {m} {T} with the highest {N}", "{C}, {m} {T}, highest {N}"),
        (2, "bottom", "select {c} from {t} order by {n} limit {m}", "show the {C} of the {m} {T} with the lowest {N}", "{C}, {m} {T}, lowest {N}"),
        (3, "groups", "select {x}, count(*) from {t} group by {x}", "for each {X} how many {T} are there", "count, {T}, per {X}"),
        (3, "group number", "select {x}, {f}({n}) from {t} group by {x}", "for each {X} what is the {g} {N} of {T}", "{g} {N}, {T}, per {X}"),
        (3, "having", "select {x} from {t} group by {x} having count(*) > {m}",
         "which {X} has more than {m} {T}", "{X}, {T}, count > {m}"),
        (3, "having number", "select {x} from {t} group by {x} having {f}({n}) > {k}",
         "for which {X} is the {g} {N} of {T} more than {k}", "{X}, {T}, {g} {N} > {k}"),
        (4, "join", "select {t}.{c} " + _JOIN + " where {p}.{y} = '{w}'",
         "show the {C} of {T} of {P} whose {Y} is {w}", "{C}, {T} of {P}, {Y} {w}"),
        (4, "pairs", "select {t}.{c}, {p}.{d} " + _JOIN, "show the {C} of all {T} with the {D} of their {P}", "{C}, {T}, {D}, {P}"),
        (4, "join count", "select count(*) " + _JOIN + " where {p}.name = '{name}'",
         "how many {T} has the {q} {name}", "count, {T}, {q} {name}"),
        (4, "join number", "select {f}({t}.{n}) " + _JOIN + " where {p}.{y} = '{w}'",
         "what is the {g} {N} of {T} of {P} whose {Y} is {w}", "{g} {N}, {T} of {P}, {Y} {w}"),
        (5, "most", "select {c} from {t} where {n} = (select max({n}) from {t})",
         "show the {C} of the {o} with the highest {N}", "{C}, one {o}, highest {N}"),
        (5, "above average", "select {c} from {t} where {n} > (select avg({n}) from {t})",
         "show the {C} of {T} whose {N} is above the average", "{C}, {T}, {N} > average"),
        (5, "with", "select {d} from {p} where id in (select {key} from {t} where {x} = '{v}')",
         "show the {D} of {P} that have {T} whose {X} is {v}", "{D}, {P} with {T}, {X} {v}"),
        (5, "without", "select {d} from {p} where id not in (select {key} from {t})",
         "show the {D} of {P} that have no {T}", "{D}, {P} without {T}"),
    )
)  # fmt: skip
_LEVELS = tuple(tuple(s for s in SHAPES if s.level == level) for level in range(1, 6))
_WITH_PARENT = (*_LEVELS, _LEVELS[3], _LEVELS[3])  # joins thrice, since a table without a parent has none
_ALONE = tuple(filter(None, (tuple(s for s in shapes if "{p}" not in s.sql) for shapes in _LEVELS)))


class Asked(NamedTuple):
    """A question with its query."""

    question: str
    sql: str
    shape: Shape
    style: str


def ask(rng: random.Random, database: Database) -> Asked:
    """A question of a random level, shape and style; its constants are taken from the rows, so that few results are empty."""
    tables = database.tables
    table = tables[int(rng.random() * len(tables))]
    levels = _WITH_PARENT if table.parent else _ALONE
    shapes = levels[int(rng.random() * len(levels))]
    shape = shapes[int(rng.random() * len(shapes))]
    slots = _slots(rng, table, database.table(table.parent) if table.parent else None, shape)
    style = STYLES[int(rng.random() * 4)]
    said = slots | {big: _said(slots[small], style) for big, small in _SAID if small in slots}
    question = (shape.terse if style == "terse" else shape.plain).format_map(said)
    if style == "chatty":
        question = f"{CHAT[int(rng.random() * len(CHAT))]} {question}"
    return Asked(question, shape.sql.format_map(slots), shape, style)


_SAID = tuple((small.upper(), small) for small in "tcxnpdy")


def _said(word: str, style: str) -> str:
    return SYNONYMS.get(word, word) if style == "synonyms" else word


def _slots(rng: random.Random, table: Table, parent: Table | None, shape: Shape) -> dict[str, Any]:
    x, v, shown = _condition(rng, table)
    n = table.numbers[int(rng.random() * len(table.numbers))]
    others = [c for c in shown if c != n]
    f = tuple(FUNCTIONS)[int(rng.random() * 4)]
    slots: dict[str, Any] = {"t": table.name, "o": table.one, "c": others[int(rng.random() * len(others))], "x": x, "v": v, "n": n, "f": f}
    slots |= {"g": FUNCTIONS[f], "m": 1 + int(rng.random() * 2) if shape.name == "having" else 2 + int(rng.random() * 3)}
    if "{k}" in shape.sql:
        values = sorted(table.values(n))
        slots["k"] = values[1 + int(rng.random() * (len(values) - 3))]
    if parent is not None:
        y, w, theirs = _condition(rng, parent)
        d = theirs[int(rng.random() * len(theirs))]
        slots |= {"p": parent.name, "q": parent.one, "key": table.key, "d": d, "y": y, "w": w}
        slots["name"] = rng.choice(parent.values("name"))
    return slots


def _condition(rng: random.Random, table: Table) -> tuple[str, str, list[str]]:
    """A column of text, one of its values, and the columns that may be shown beside it."""
    x = table.texts[int(rng.random() * len(table.texts))]
    values = table.values(x)
    return x, values[int(rng.random() * len(values))], [c for c in ("name", *table.texts, *table.numbers) if c != x]
