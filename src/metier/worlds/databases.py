"""Databases: small relational databases with questions and SQL, and logs with questions and log queries."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

from metier.task.example import Example
from metier.task.task import Task
from metier.worlds import _log_questions, _logql, _queries, _schemas
from metier.worlds._sides import side_of
from metier.worlds.base import Sheet, World

SQL_TEMPLATE = "Tables: {{ schema }}\nQuestion: {{ question }}\nSQL:"
LOG_TEMPLATE = "Labels: {{ labels }}\nQuestion: {{ question }}\nQuery:"
SIZES = {"train": 600, "dev": 100, "test": 200, "ood": 200}
SHARED = 6  # databases that task `sql` asks about
RUN = 4  # questions in a row about one database or log


class Databases(World):
    """Questions in four styles (plain, terse, with synonyms, among irrelevant words) about databases of 1 to 4 tables, and about logs.

    Guarantees: every query runs on SQLite, and at least nine of ten give a row; the question tells the query (no two queries
    of a database share one); a numeric column has no ties, so that orders and limits are decided. Level 1 selects, 2 aggregates
    or orders, 3 groups, 4 joins, 5 nests. Task `sql`: all splits ask about the same six databases, no query is in two of them;
    `ood` asks about schemas that no other split has. Task `sql-cross`: no schema is in two splits, nor in the corpus; `ood` has
    tables and columns whose names occur nowhere else. Task `logql`: the canonical query in a language after LogQL, of which
    `execute` is an exact interpreter; no query is in two splits; `ood` has other label names. SQL is scored by running it;
    log queries by equality with the canonical text, since equality of results is a question for `execute`.
    """

    docs = "small databases and logs: questions in several styles, SQL and log queries by difficulty"

    def corpus(self, era: int = 0) -> Iterator[str]:
        """Solved questions about fresh databases and logs, and questions about what a schema holds."""
        rng = self.rng("corpus", era)
        while True:
            draw = rng.random()
            if draw < 0.3:
                log = _log_questions.invent(rng)
                asked = itertools.islice((a for a in _log_asked(rng, log) if side_of(a.query) == "corpus"), rng.randint(2, 5))
                yield "\n\n".join(f"Labels: {log.names}\nQuestion: {a.question}\nQuery: {a.query}" for a in asked)
                continue
            database = self.database(rng, "corpus")
            if draw < 0.85:
                solved = (_queries.ask(rng, database) for _ in range(rng.randint(1, 5 - len(database.tables) // 2)))
                yield "\n\n".join(f"Tables: {database.schema}\nQuestion: {a.question}\nSQL: {a.sql}" for a in solved)
            else:
                yield _schema_reading(rng, database)

    def sheets(self) -> dict[str, Sheet]:
        """`sql` (the same databases), `sql-cross` (new ones) and `logql`."""
        made = {
            "sql": (SQL_TEMPLATE, "sql", self._same_rows),
            "sql-cross": (SQL_TEMPLATE, "sql", self._cross_rows),
            "logql": (LOG_TEMPLATE, "exact", self._log_rows),
        }
        return {
            name: Sheet(Task(name=name, kind="generate", template=template, metric=metric, max_new_tokens=64), SIZES, rows)
            for name, (template, metric, rows) in made.items()
        }

    def truth(self) -> dict[str, Any]:
        """The shared databases, the shapes of query by level, the synonyms."""
        return {
            "databases": {database.schema: database.loadable() for database in self.shared()},
            "levels": {shape.name: shape.level for shape in _queries.SHAPES},
            "synonyms": _queries.SYNONYMS,
        }

    def shared(self) -> list[_schemas.Database]:
        """The databases that task `sql` asks about, by number of tables; none of their schemas is in the corpus."""
        rng = self.rng("shared")
        return [_schemas.invent(rng, _schemas.KNOWN, 1 + i % 4, lambda schema: side_of(schema) == "train") for i in range(SHARED)]

    def database(self, rng: random.Random, side: str) -> _schemas.Database:
        """A new database of 1 to 4 tables whose schema belongs to that side: corpus or a split."""
        tables = 1 + int(rng.random() ** 1.5 * 4)
        if side == "ood":
            return _schemas.invent(rng, _schemas.UNSEEN, tables, bool)
        return _schemas.invent(rng, _schemas.KNOWN, tables, lambda schema: side_of(schema) == side)

    @staticmethod
    def execute(query: str, lines: Sequence[_logql.Line], now: int) -> _logql.Result:
        """What a log query gives on log lines at minute `now`. Raises ValueError where it is no query."""
        return _logql.execute(query, lines, now)

    def _same_rows(self, split: str) -> Iterator[Example]:
        rng, bases = self.rng("sql", split), [_Base(database) for database in self.shared()]
        for i in itertools.count():
            if split == "ood" and i % RUN == 0:
                bases = [_Base(self.database(rng, "test"))]
            while True:
                base = bases[int(rng.random() * len(bases))]
                asked = _queries.ask(rng, base.database)
                if split == "ood" or side_of(asked.sql) == split:
                    break
            yield base.example(f"sql-{split}-{i:05d}", asked)

    def _cross_rows(self, split: str) -> Iterator[Example]:
        rng = self.rng("sql-cross", split)
        for i in itertools.count():
            if i % RUN == 0:
                base = _Base(self.database(rng, split))
            yield base.example(f"sql-cross-{split}-{i:05d}", _queries.ask(rng, base.database))

    def _log_rows(self, split: str) -> Iterator[Example]:
        rng = self.rng("logql", split)
        for i in itertools.count():
            if i % RUN == 0:
                log = _log_questions.invent(rng, unseen=split == "ood")
                asking = _log_asked(rng, log)
                lines = [str(line) for line in log.lines]
            asked = next(a for a in asking if split == "ood" or side_of(a.query) == split)
            fields = {"labels": log.names, "question": asked.question, "level": asked.level, "lines": lines, "now": log.now}
            yield Example(f"logql-{split}-{i:05d}", fields, asked.query)


def _log_asked(rng: random.Random, log: _log_questions.Log) -> Iterator[_log_questions.Asked]:
    while True:
        yield _log_questions.ask(rng, log)


class _Base:
    """A database in the forms that examples show it in, made once for all of its questions."""

    def __init__(self, database: _schemas.Database) -> None:
        self.database, self._schema, self._tables = database, database.schema, database.loadable()

    def example(self, name: str, asked: _queries.Asked) -> Example:
        """The question as an example."""
        fields = {
            "schema": self._schema,
            "question": asked.question,
            "tables": self._tables,
            "level": asked.shape.level,
            "shape": asked.shape.name,
            "style": asked.style,
        }
        return Example(name, fields, asked.sql)


def _schema_reading(rng: random.Random, database: _schemas.Database) -> str:
    """Which columns a table has, and which table has a column."""
    lines = [f"Tables: {database.schema}"]
    for _ in range(rng.randint(2, 4)):
        table = rng.choice(database.tables)
        column = rng.choice([*table.texts, *table.numbers])
        holders = ", ".join(t.name for t in database.tables if column in t.columns)
        question, answer = rng.choice(
            ((f"which columns has {table.name}", ", ".join(table.columns)), (f"which tables have the column {column}", holders))
        )
        lines.append(f"Question: {question}\nAnswer: {answer}")
    return "\n".join(lines)
