"""Small relational databases: tables of invented rows, tied by foreign keys, as the databases world asks about them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

ENTITIES = {  # table -> (one of its rows, another word for the table)
    "pets": ("pet", "animals"),
    "owners": ("owner", "keepers"),
    "shops": ("shop", "stores"),
    "books": ("book", "volumes"),
    "songs": ("song", "tunes"),
    "ships": ("ship", "vessels"),
    "farms": ("farm", "ranches"),
    "rooms": ("room", "chambers"),
    "cars": ("car", "autos"),
    "teams": ("team", "squads"),
    "pupils": ("pupil", "students"),
    "doctors": ("doctor", "medics"),
    "cooks": ("cook", "chefs"),
    "hotels": ("hotel", "inns"),
    "plants": ("plant", "herbs"),
    "games": ("game", "matches"),
}
NEW_ENTITIES = {
    "bridges": ("bridge", "crossings"),
    "lakes": ("lake", "ponds"),
    "poems": ("poem", "verses"),
    "robots": ("robot", "machines"),
    "judges": ("judge", "referees"),
    "towers": ("tower", "spires"),
}
TEXTS = {  # column -> (another word for it, its values)
    "city": ("town", "rome paris oslo lima cairo delhi tokyo madrid".split()),
    "color": ("paint", "red blue green white black brown gold pink".split()),
    "kind": ("type", "basic classic modern simple special royal local grand".split()),
    "day": ("weekday", "monday tuesday wednesday thursday friday saturday sunday".split()),
    "status": ("condition", "open closed new old ready broken sold free".split()),
    "food": ("meal", "rice bread soup fish cake fruit salad cheese".split()),
}
NUMBERS = {  # column -> (another word for it, least value, greatest value)
    "age": ("years", 1, 40),
    "price": ("cost", 10, 99),
    "size": ("extent", 1, 50),
    "weight": ("mass", 20, 90),
    "score": ("points", 1, 60),
    "height": ("tallness", 30, 99),
    "speed": ("pace", 5, 80),
    "rank": ("place", 1, 30),
}
NEW_TEXTS = {
    "metal": ("alloy", "iron steel copper silver tin brass lead zinc".split()),
    "season": ("quarter", "spring summer autumn winter".split()),
    "shape": ("form", "round square flat tall narrow wide curved oval".split()),
}
NEW_NUMBERS = {"depth": ("deepness", 1, 60), "power": ("strength", 10, 99), "length": ("span", 5, 90), "age": ("years", 1, 40)}
NAMES = (
    "anna ben carl dora emil fay gus hana ivan jane kurt lena mark nina otto paul rita sam tina uma vera will yara zoe "
    "alex bella cleo dan elsa finn"
).split()
NAME_SYNONYM = "label"


class Table(NamedTuple):
    """A table: what a row of it is called, its columns by what they hold, and its rows in the order of `columns`.

    texts    columns whose values recur; `name` is not among them: it is unique
    numbers  columns of whole numbers, without ties
    parent   table that `key` points into, or ''
    """

    name: str
    one: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]
    parent: str
    key: str
    rows: tuple[tuple[Any, ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, `id` first, the foreign key last."""
        return ("id", "name", *self.texts, *self.numbers, *((self.key,) if self.key else ()))

    def values(self, column: str) -> list[Any]:
        """The column's values, row by row."""
        place = self.columns.index(column)
        return [row[place] for row in self.rows]


class Words(NamedTuple):
    """What schemas are made of."""

    entities: dict[str, tuple[str, str]]
    texts: dict[str, tuple[str, list[str]]]
    numbers: dict[str, tuple[str, int, int]]

    def synonyms(self) -> dict[str, str]:
        """Table or column -> its other word."""
        kinds = (self.texts, self.numbers)
        columns = {column: entry[0] for kind in kinds for column, entry in kind.items()}
        return {"name": NAME_SYNONYM} | columns | {table: other for table, (_, other) in self.entities.items()}


KNOWN = Words(ENTITIES, TEXTS, NUMBERS)
UNSEEN = Words(NEW_ENTITIES, NEW_TEXTS, NEW_NUMBERS)


class Database(NamedTuple):
    """Tables of which each but the first points to an earlier one."""

    tables: tuple[Table, ...]

    @property
    def schema(self) -> str:
        """One line: 'pets(id, name, age, owner_id), owners(id, name, city)'."""
        return ", ".join(f"{t.name}({', '.join(t.columns)})" for t in self.tables)

    def loadable(self) -> list[dict[str, Any]]:
        """The tables as `metier.task.sandbox.run_sql` loads them."""
        return [{"name": t.name, "columns": [_typed(t, c) for c in t.columns], "rows": [list(row) for row in t.rows]} for t in self.tables]

    def table(self, name: str) -> Table:
        """The table of that name."""
        return next(t for t in self.tables if t.name == name)


def _typed(table: Table, column: str) -> dict[str, Any]:
    kind = "TEXT" if column == "name" or column in table.texts else "INTEGER"
    return {"name": column, "type": kind} | ({"pk": True} if column == "id" else {})


def invent(rng: random.Random, words: Words, tables: int, fits: Callable[[str], bool]) -> Database:
    """A new database whose schema line `fits`."""
    while True:
        plan, names = [], rng.sample(list(words.entities), tables)
        for i, name in enumerate(names):
            texts = tuple(rng.sample(list(words.texts), rng.randint(1, 2)))
            numbers = tuple(rng.sample(list(words.numbers), rng.randint(1, 2) if tables > 2 else 2))
            parent = names[rng.randrange(i)] if i else ""
            key = f"{words.entities[parent][0]}_id" if parent else ""
            plan.append(Table(name, words.entities[name][0], texts, numbers, parent, key, ()))
        database = Database(tuple(plan))
        if fits(database.schema):
            return Database(_filled(rng, words, plan))


def _filled(rng: random.Random, words: Words, plan: list[Table]) -> tuple[Table, ...]:
    sizes, filled = dict[str, int](), []
    for table in plan:
        n = sizes[table.name] = rng.randint(6, 9)
        columns: list[list[Any]] = [list(range(1, n + 1)), rng.sample(NAMES, n)]
        for column in table.texts:
            few = rng.sample(words.texts[column][1], 3)
            columns.append([*few, *rng.choices(few, k=n - 3)])
        for column in table.numbers:
            _, low, high = words.numbers[column]
            columns.append(rng.sample(range(low, high + 1), n))
        if table.parent:
            columns.append(rng.choices(range(1, sizes[table.parent] + 1), k=n))
        filled.append(table._replace(rows=tuple(zip(*columns, strict=True))))
    return tuple(filled)
