"""Where rows come from: a file, a folder of splits, a `datasets` name or folder; all become a `Source`."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metier.errors import UserError
from metier.task.documents import documents_of, load_documents, unique
from metier.task.example import Document
from metier.task.read import Row, Table, existing, kind_of, read_table, read_tables, stem_of
from metier.task.spec import SPLIT_NAMES

_SHARD = re.compile(r"(?P<split>[A-Za-z_]+?)(?:-\d+-of-\d+)?")
_SIDE = ("documents", "contexts", "corpus", "queries", "databases", "schema")


@dataclass(frozen=True, slots=True)
class Source:
    """Tables by split ('' where they are not split), documents, and what is worth telling about where they came from."""

    name: str
    tables: Mapping[str, Table]
    documents: tuple[Document, ...] = ()
    ranked: bool = False
    notes: Mapping[str, Any] = field(default_factory=dict)


def split_of(name: str) -> str | None:
    """train, dev, test or ood for the usual names of splits ('validation' is dev), else None."""
    return next((split for split, names in SPLIT_NAMES.items() if name.lower() in names), None)


def from_file(path: Path) -> Source:
    """A single file; a JSON object of lists may hold splits."""
    tables = read_tables(path)
    if set(tables) == {""}:
        return Source(stem_of(path), tables)
    unknown = [name for name in tables if split_of(name) is None]
    if unknown:
        raise UserError(f"{path}: {unknown[0]!r} is no split. Known: train, dev, test, ood.")
    return Source(stem_of(path), {str(split_of(name)): table for name, table in tables.items()})


def from_splits(splits: Mapping[str, str], folder: Path) -> Source:
    """Named files, relative to the folder of the task file."""
    return Source(folder.resolve().name, {split: read_table(folder / path) for split, path in splits.items()})


def from_folder(folder: Path) -> Source:
    """A folder: split files, and corpus, queries, documents, contexts, databases or schema beside them."""
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return from_disk(folder)
    files = sorted(p for p in folder.iterdir() if p.is_file() and kind_of(p))
    groups: dict[str, list[Path]] = {}
    for path in files:
        match = _SHARD.fullmatch(stem_of(path))
        name = match["split"] if match else ""
        groups.setdefault(split_of(name) or (name if name in _SIDE else ""), []).append(path)
    others = groups.pop("", [])
    side = {name: _whole(name, groups.pop(name)) for name in _SIDE if name in groups}
    tables = {name: _whole(name, paths) for name, paths in groups.items()}
    if not tables and len(others) == 1:
        return replace(from_file(others.pop()), name=folder.resolve().name, documents=_documents(folder, side))
    if not tables:
        found = ", ".join(p.name for p in files) or "no data files"
        raise UserError(
            f"{folder}: no train, dev or test file here ({found}). Name them train.jsonl, dev.jsonl, test.jsonl (or .csv, .parquet)."
        )
    notes: dict[str, Any] = {"ignored": [p.name for p in others]} if others else {}
    if {"corpus", "queries"} <= set(side):
        return _ranked(folder, tables, side, notes)
    documents = _documents(folder, side)
    for name in ("contexts", "databases"):
        if name in side:
            key = _join_key(side[name], tables)
            tables = {split: _joined(table, side[name], key) for split, table in tables.items()}
            notes[name] = f"joined by {key}"
    tables = {split: _with_schema(table, side.get("schema")) for split, table in tables.items()}
    return Source(folder.resolve().name, tables, documents, notes=notes)


def from_disk(folder: Path) -> Source:
    """A folder written by `datasets`' save_to_disk."""
    import datasets

    return _from_datasets(folder.resolve().name, datasets.load_from_disk(str(folder)), str(folder))


def from_hub(name: str) -> Source:
    """A data set of the Hugging Face hub: 'owner/name' or 'owner/name:configuration'. Remote code is never run."""
    import datasets

    path, _, configuration = name.partition(":")
    try:
        with _no_retries_offline():
            loaded = datasets.load_dataset(path, configuration or None)
    except (OSError, ValueError, RuntimeError) as error:  # not found, offline, gated, script-based
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name}: cannot be had from the Hugging Face hub ({reason}). Check the name and the network, or download it and give its folder."
        ) from error
    return _from_datasets(path.rpartition("/")[2], loaded, f"hf:{name}")


@contextlib.contextmanager
def _no_retries_offline() -> Iterator[None]:
    """Where the hub's name does not resolve, only the local cache is asked: the hub's client would retry for 23 seconds."""
    import huggingface_hub.constants as hub
    from datasets import config

    before = hub.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    if not before[0] and not any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        try:
            socket.getaddrinfo(urllib.parse.urlsplit(hub.ENDPOINT).hostname, 443)
        except OSError:
            hub.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def _from_datasets(name: str, loaded: Any, where: str) -> Source:
    splits = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    known = {split_of(split) if split else "": data for split, data in splits.items()}
    ignored = [split for split in splits if split and split_of(split) is None]
    tables = {split: Table(f"{where}[{split}]" if split else where, _named(data)) for split, data in known.items() if split is not None}
    if not tables:
        raise UserError(f"{where}: none of its splits is train, validation or test: {', '.join(splits)}. Save them under these names.")
    return Source(name, tables, notes={"ignored": ignored} if ignored else {})


def _named(data: Any) -> list[Row]:
    """Rows of a `datasets.Dataset`; a ClassLabel called label gets its names as label_text."""
    names = getattr(data.features.get("label"), "names", None)
    rows = data.to_list()
    if not names or "label_text" in data.column_names:
        return rows
    return [{**row, "label_text": names[row["label"]] if row["label"] is not None and row["label"] >= 0 else None} for row in rows]


def _whole(name: str, paths: list[Path]) -> Table:
    """One table of a file, or of numbered shards; two files for the same split are an error."""
    if len(paths) == 1:
        return read_table(paths[0])
    if not all("-of-" in path.name for path in paths):
        raise UserError(f"{paths[0].parent}: {' and '.join(p.name for p in paths)} are both '{name}'. Keep one.")
    return Table(str(paths[0]), [row for path in paths for row in read_table(path).rows])


def _documents(folder: Path, side: Mapping[str, Table]) -> tuple[Document, ...]:
    pages = folder / "documents"
    tables = [side[name] for name in ("documents", "corpus", "contexts") if name in side]
    found = [*(load_documents(pages) if pages.is_dir() else ()), *(d for table in tables for d in documents_of(table))]
    return unique(found, str(folder))


def _join_key(side: Table, tables: Mapping[str, Table]) -> str:
    shared = [c for c in side.columns if c.endswith("id") and all(c in t.columns for t in tables.values())]
    if len(shared) != 1:
        raise UserError(f"{side.path}: must share exactly one id column with the rows; found {', '.join(shared) or 'none'}.")
    keys = [row.get(shared[0]) for row in side.rows]
    if len(set(keys)) != len(keys):
        raise UserError(f"{side.path}: the column {shared[0]} holds a value twice; it must be unique.")
    return shared[0]


def _joined(table: Table, side: Table, key: str) -> Table:
    more = {row[key]: row for row in side.rows}
    for index, row in enumerate(table.rows):
        if row.get(key) not in more:
            raise UserError(f"{table.at(index)}: {key} is {row.get(key)!r}, which {side.path} does not have.")
    return replace(table, rows=[{**more[row[key]], **row} for row in table.rows])


def _with_schema(table: Table, schema: Table | None) -> Table:
    """Adds `schema`, one 'table(column, ...)' per line, from joined databases or from a schema file."""
    if "tables" in table.columns:
        seen: dict[int, str] = {}
        for row in table.rows:
            if id(row["tables"]) not in seen:
                seen[id(row["tables"])] = _schema({t["name"]: [c["name"] for c in t["columns"]] for t in row["tables"]})
        return replace(table, rows=[{"schema": seen[id(row["tables"])], **row} for row in table.rows])
    if schema is not None and {"Table Name", "Field Name"} <= set(schema.columns):
        columns: dict[str, list[str]] = {}
        for row in (r for r in schema.rows if r["Table Name"] != "-"):
            columns.setdefault(row["Table Name"], []).append(row["Field Name"])
        return replace(table, rows=[{"schema": _schema(columns), **row} for row in table.rows])
    return table


def _schema(columns: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{name}({', '.join(names)})" for name, names in columns.items())


def _ranked(folder: Path, tables: Mapping[str, Table], side: Mapping[str, Table], notes: Mapping[str, Any]) -> Source:
    """Queries with judgements (BEIR's columns query-id, corpus-id, score) as rows {query, target}."""
    corpus = unique(documents_of(side["corpus"]), side["corpus"].path)
    known = {document.id for document in corpus}
    queries = {str(row.get("_id", row.get("id"))): row.get("text", row.get("query")) for row in side["queries"].rows}
    judged = {}
    for split, table in tables.items():
        rows: dict[str, Row] = {}
        lines: dict[str, int] = {}
        for index, row in enumerate(table.rows):
            query, document, grade = str(row.get("query-id")), str(row.get("corpus-id")), row.get("score", 1)
            if query not in queries:
                raise UserError(f"{table.at(index)}: query-id {query!r} is not in {side['queries'].path}.")
            if document not in known:
                raise UserError(f"{table.at(index)}: corpus-id {document!r} is not in {side['corpus'].path}.")
            if not str(grade).lstrip("-").isdigit():
                raise UserError(f"{table.at(index)}: score is {grade!r}; write a whole number, 0 for not relevant.")
            rows.setdefault(query, {"id": query, "query": queries[query], "target": {}})["target"][document] = int(grade)
            lines.setdefault(query, table.lines[index])
        judged[split] = Table(table.path, list(rows.values()), list(lines.values()))
    return Source(folder.resolve().name, judged, corpus, ranked=True, notes=notes)


def looks_like_path(source: str) -> bool:
    """Whether a text that names nothing here was meant as a path: it has a known suffix, or starts like one."""
    return bool(kind_of(Path(source))) or source.startswith((".", "/", "~")) or source.endswith(("/", ".yaml", ".yml"))


def from_path(path: Path) -> Source:
    """A file or folder that exists."""
    return from_folder(path) if existing(path).is_dir() else from_file(path)
