"""Tables from files: JSONL, JSON, CSV, TSV and Parquet, plain or gzipped, every error with its file and line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metier.errors import UserError, nearest

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
LONGEST_CELL = 2**26  # characters of one CSV cell


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one file with the line each came from (`lines[i]` is the 1-based line, or row, of `rows[i]`)."""

    path: str
    rows: list[Row]
    lines: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.lines:
            object.__setattr__(self, "lines", list(range(1, len(self.rows) + 1)))

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order of first appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def at(self, index: int) -> str:
        """'file:line' of a row."""
        return f"{self.path}:{self.lines[index]}"


def kind_of(path: Path) -> str:
    """The suffix that says the format ('.jsonl' for 'a.jsonl.gz'), or '' for a format that is not read."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """File name without its format: 'train' for 'train.jsonl.gz'."""
    kind = kind_of(path)
    return path.name[: path.name.lower().rindex(kind)] if kind else path.stem


def existing(path: Path) -> Path:
    """The path, or `UserError` with the nearest name in its folder."""
    if path.exists():
        return path
    parent = path.parent
    if not parent.is_dir():
        raise UserError(f"{path}: no such file or folder; {parent} does not exist either. Check the path.")
    names = [p.name for p in parent.iterdir() if not p.name.startswith(".")]
    raise UserError(f"{path}: no such file or folder.{nearest(path.name, names)}")


def read_table(path: Path) -> Table:
    """All rows of a file. Raises `UserError` naming file and line for what cannot be read."""
    tables = read_tables(path)
    if set(tables) != {""}:
        raise UserError(f"{path}: holds splits ({', '.join(tables)}) where one list of rows was expected. Give it as the task itself.")
    return tables[""]


def read_tables(path: Path) -> dict[str, Table]:
    """The tables of a file: {'': table}, or one per split for a JSON object of lists."""
    kind = kind_of(existing(path))
    if path.is_dir():
        raise UserError(f"{path}: is a folder where a file was expected.")
    if not kind:
        raise UserError(f"{path}: unknown format '{path.suffix}'. Known: {', '.join(SUFFIXES)}, each also as .gz except .parquet.")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty.")
    if kind == ".json":
        tables = _json(path)
    elif kind == ".parquet":
        tables = {"": _parquet(path)}
    elif kind in (".csv", ".tsv"):
        tables = {"": _csv(path, "\t" if kind == ".tsv" else "")}
    else:
        tables = {"": _jsonl(path)}
    for name, table in tables.items():
        if not table.rows:
            raise UserError(f"{path}: no rows{f' in {name!r}' if name else ''}.")
    return tables


def read_text(path: Path) -> str:
    """A whole UTF-8 text (a byte order mark is dropped)."""
    return "".join(text for _, text in _lines(path)).removeprefix("\ufeff")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, text with its line end); undecodable bytes and broken gzip are a `UserError`."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                yield number, raw.decode("utf-8").removeprefix("\ufeff" if number == 1 else "")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(
            f"{path}:{number}: byte 0x{byte:02x} at position {error.start + 1} of the line is not UTF-8. "
            f"Save the file as UTF-8 (for instance: iconv -f LATIN1 -t UTF-8)."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}:{number + 1}: the gzip data end early or are broken ({error}). Copy the file again.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error


def _jsonl(path: Path) -> Table:
    rows: list[Row] = []
    lines: list[int] = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}:{number}: not valid JSON ({error.msg}, column {error.colno}): {_start(line)}. Each line must be one JSON object."
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: a JSON {type(row).__name__} where an object was expected: {_start(line)}. Write {{...}}.")
        rows.append(row)
        lines.append(number)
    return Table(str(path), rows, lines)


def _json(path: Path) -> dict[str, Table]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        line = text.splitlines()[error.lineno - 1] if text.splitlines() else ""
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno}): {_start(line)}.") from error
    if isinstance(content, dict) and set(content) == {"data"}:
        content = content["data"]
    if isinstance(content, dict) and content and all(isinstance(rows, list) for rows in content.values()):
        return {name: _objects(path, rows, f"{name}, ") for name, rows in content.items()}
    if not isinstance(content, list):
        raise UserError(f"{path}: must hold a list of objects, or an object of such lists named train, dev and test.")
    return {"": _objects(path, content, "")}


def _objects(path: Path, rows: list[Any], where: str) -> Table:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: {where}item {number} is a {type(row).__name__} where an object was expected: {_start(repr(row))}.")
    return Table(str(path), rows)


def _parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return Table(str(path), pyarrow.parquet.read_table(path).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}).") from error


def _csv(path: Path, delimiter: str) -> Table:
    limit = csv.field_size_limit(LONGEST_CELL)
    try:
        return _csv_rows(path, delimiter)
    finally:
        csv.field_size_limit(limit)


def _csv_rows(path: Path, delimiter: str) -> Table:
    texts = [text for _, text in _lines(path)]
    delimiter = delimiter or (";" if texts and "," not in texts[0] and ";" in texts[0] else ",")
    reader = csv.reader(_no_nul(path, texts), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    lines: list[int] = []
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip() and len(header) > 1):
                start = reader.line_num + 1
                continue
            if not header:
                header = _header(path, cells)
            elif len(cells) != len(header):
                raise UserError(
                    f"{path}:{start}: {len(cells)} cell{'s' * (len(cells) > 1)} where the header has {len(header)} ({', '.join(header)}): "
                    f"{_start(texts[start - 1])}. Put text that holds '{delimiter}' in double quotes."
                )
            else:
                rows.append(dict(zip(header, cells, strict=True)))
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}:{start}: not valid CSV ({error}): {_start(texts[min(start, len(texts)) - 1])}. Check the quotes."
        ) from error
    return Table(str(path), rows, lines)


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name in names:
        if not name and names != [""] and names.index(name) == 0 and names.count("") == 1:
            continue  # the unnamed index column that pandas writes
        if not name or names.count(name) > 1:
            raise UserError(
                f"{path}:1: the header has {'an empty' if not name else 'a repeated'} column name {name!r}: {', '.join(names)}."
            )
    return names


def _no_nul(path: Path, texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts, 1):
        if "\0" in text:
            raise UserError(f"{path}:{number}: holds a NUL byte; this is not a text file (or it is UTF-16). Save it as UTF-8.")
        yield text


def _start(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 60 else text[:60] + "...")
