"""Record: what a specialist did on one example. Every metric is a pure function of records; on disk they are Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from metier import atomic, check
from metier.errors import UserError

VERSION = 1
SPLITS = ("test", "ood", "dev", "retain")
_SLACK = 1e-6  # rounding allowed around [0, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One answer to one example.

    example      the example's id                          digest       of its content (`Example.digest`)
    task         the task's name                           split        test, ood, dev or retain
    output       what was answered                         target       what was wanted, JSON-able (a tuple becomes a list)
    score        in [0, 1], higher is better               choices      what could be chosen, or None
    logprobs     nats, normalised over `choices`, or None  confidence   probability of what was answered, or None
    tokens_in    tokens read                               tokens_out   tokens written
    seconds      this example's share of its batch's time  stats        additive corpus statistics (such as BLEU's), or None
    prompt_tail  the prompt's last 200 characters, to show

    Raises ValueError where score or confidence leave [0, 1], or log-probabilities and choices differ in number.
    """

    example: str
    digest: str
    task: str
    split: str
    output: str
    target: Any
    score: float
    choices: list[str] | None = None
    logprobs: list[float] | None = None
    confidence: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    stats: list[float] | None = None
    prompt_tail: str = ""

    def __post_init__(self) -> None:
        check.one_of("split", self.split, SPLITS)
        for name in ("score", "confidence"):
            value = getattr(self, name)
            if value is not None and not -_SLACK <= value <= 1 + _SLACK:
                raise ValueError(f"record of {self.example!r}: {name} must be in [0, 1]; got {value}.")
        if self.logprobs is not None and len(self.logprobs) != len(self.choices or ()):
            raise ValueError(f"record of {self.example!r}: {len(self.logprobs)} log-probabilities for {len(self.choices or ())} choices.")
        for name in ("target", "choices", "logprobs", "stats"):
            if isinstance(getattr(self, name), tuple):
                object.__setattr__(self, name, list(getattr(self, name)))


_NAMES = [f.name for f in fields(Record)]
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("example", "digest", "task", "split", "output", "target")]
    + [("score", pa.float64()), ("choices", pa.list_(pa.string())), ("logprobs", pa.list_(pa.float64())), ("confidence", pa.float64())]
    + [("tokens_in", pa.int64()), ("tokens_out", pa.int64()), ("seconds", pa.float64()), ("stats", pa.list_(pa.float64()))]
    + [("prompt_tail", pa.string())],
    metadata={b"metier.records": str(VERSION).encode()},
)


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records as Parquet: whole or not at all, durable when this returns. Raises ValueError for text that is not Unicode."""
    rows = list(records)
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in _NAMES}
    columns["target"] = [json.dumps(target) for target in columns["target"]]
    try:
        table = pa.table(columns, schema=_SCHEMA)
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}: a record holds text that UTF-8 cannot hold (a lone surrogate): {error}.") from error
    content = pa.BufferOutputStream()
    pq.write_table(table, content, compression="zstd")
    atomic.write_bytes(Path(path), content.getvalue().to_pybytes())


def read_records(path: str | Path) -> list[Record]:
    """Records as they were written. Raises UserError for a file that is not there, not ours, damaged, or from a newer metier."""
    try:
        table = pq.ParquetFile(pa.BufferReader(Path(path).read_bytes())).read()  # read_table would import pandas
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such records file.") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}). Delete it and run again.") from error
    version = int((table.schema.metadata or {}).get(b"metier.records", b"0"))
    if version > VERSION:
        raise UserError(f"{path}: records of version {version}; this metier reads up to {VERSION}. Upgrade metier.")
    if version < 1 or table.column_names != _NAMES:
        raise UserError(f"{path}: not a file of metier's records.")
    columns = [table.column(name).to_pylist() for name in _NAMES]
    rows = (dict(zip(_NAMES, values, strict=True)) for values in zip(*columns, strict=True))
    return [Record(**{**row, "target": json.loads(row["target"])}) for row in rows]


def by_example(records: Sequence[Record]) -> dict[str, Record]:
    """{example id: record}. Raises ValueError naming ids that occur twice."""
    found = {record.example: record for record in records}
    if len(found) != len(records):
        seen: set[str] = set()
        twice = sorted({r.example for r in records if r.example in seen or seen.add(r.example)})  # type: ignore[func-returns-value]
        raise ValueError(f"records: example ids must be unique; {len(twice)} occur more than once: {', '.join(twice[:5])}.")
    return found


def align(base: Sequence[Record], new: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Pairs of records of the same example, in the order of `base`. Raises ValueError naming ids that only one side has."""
    left, right = by_example(base), by_example(new)
    if left.keys() != right.keys():
        sides = (("first", left.keys() - right.keys()), ("second", right.keys() - left.keys()))
        odd = "; ".join(f"{len(ids)} only in the {side}: {', '.join(sorted(ids)[:5])}" for side, ids in sides if ids)
        raise ValueError(f"records do not pair up by example id; {odd}. Were they made from the same split?")
    return [(record, right[record.example]) for record in base]
