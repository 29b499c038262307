"""A world on disk: every task as a folder that `load_task` and `metier compare` read, and the truth as JSON.

Rows are drawn and written one at a time, so that a world of any size is written in little memory.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from metier import atomic, check
from metier.errors import UserError
from metier.task.documents import IDS
from metier.task.example import Document, Example
from metier.task.task import SPLITS, Task
from metier.worlds.base import Sheet, World
from metier.worlds.media import write_array

Advance = Callable[[float, str], None]
OPTIONS = ("cutoff", "retain", "database")  # of a task, which a task file can say


def amount(world: World, corpus: int = 0, only: str | None = None) -> int:
    """How many rows and documents `write_world` will write, at most."""
    return corpus + sum(world.count(n) for sheet in _sheets(world, only).values() for n in sheet.sizes.values())


def write_world(
    world: World,
    out: Path,
    *,
    only: str | None = None,
    corpus: int = 0,
    era: int = 0,
    advance: Advance = lambda amount, what: None,
) -> None:
    """Write the folder OUT, whole or not at all; it must not exist yet, or be empty.

    OUT/TASK/     for all tasks that the world lists, or for `only` one:
                  task.yaml, train, dev, test and ood.jsonl, documents.jsonl; pictures and sounds in folders beside the rows
    truth.json    the answer sheet
    tools.json    functions that may be called, where the world has some
    corpus.jsonl  the first `corpus` documents of the era to pretrain on, if any are asked for

    `advance` is called after each row with 1 and what was being written. Raises `UserError` if OUT holds something.
    """
    check.integer("corpus", corpus, low=0)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: holds something already and is not replaced. Choose another folder with -o, or remove it.")
    atomic.writable(out)
    with atomic.folder(out) as draft:
        for name, sheet in _sheets(world, only).items():
            _write_task(world, sheet, draft / name, advance)
        if corpus:
            _write_lines(
                draft / "corpus.jsonl", ({"text": text} for text in itertools.islice(world.corpus(era), corpus)), "corpus", advance
            )
        if tools := list(world.tools()):
            atomic.write_json(draft / "tools.json", tools)
        atomic.write_json(draft / "truth.json", world.truth())


def _sheets(world: World, only: str | None) -> dict[str, Sheet]:
    return world.sheets() if only is None else {only: world.sheet(only)}


def _write_task(world: World, sheet: Sheet, place: Path, advance: Advance) -> None:
    place.mkdir()
    own, splits = _own_choices(world, sheet), {}
    for split in SPLITS:
        rows = (_row(sheet.task, example, place, own) for example in world.rows(sheet, split))
        if _write_lines(place / f"{split}.jsonl", rows, f"{sheet.task.name}, {split}", advance):
            splits[split] = f"{split}.jsonl"
    facts = _facts(sheet.task) | {"fields": {"target": "target"} | ({"choices": "choices"} if own else {})}
    if sheet.task.documents:
        _write_lines(place / "documents.jsonl", map(_page, sheet.task.documents))
        facts["documents"] = "documents.jsonl"
    if database := sheet.task.options.get("database"):
        (place / "database.sql").write_text(database, encoding="utf-8")
        facts["database"] = "database.sql"
    import yaml

    text = yaml.safe_dump({**facts, "splits": splits}, sort_keys=False, allow_unicode=True, width=1000)
    (place / "task.yaml").write_text(text, encoding="utf-8")


def _own_choices(world: World, sheet: Sheet) -> bool:
    """Whether rows bring choices of their own."""
    own = any(example.choices is not None for split in sheet.sizes for example in itertools.islice(world.rows(sheet, split), 1))
    if own and sheet.task.choices:
        raise ValueError(f"task {sheet.task.name}: either the task has choices, or its rows have.")
    return own


def _facts(task: Task) -> dict[str, Any]:
    """What task.yaml says of the task, less its files. Raises ValueError for an option that a task file cannot say."""
    if lost := [name for name in task.options if name not in OPTIONS]:
        raise ValueError(f"task {task.name}: the option {lost[0]!r} cannot be written; a task file knows {', '.join(OPTIONS)}.")
    facts: dict[str, Any] = {"name": task.name, "kind": task.kind, "template": task.template, "metric": task.metric}
    if task.instruction:
        facts["instruction"] = task.instruction
    if task.choices:
        facts["choices"] = list(task.choices)
    facts |= {"inputs": list(task.inputs), "separator": task.separator, "stop": list(task.stop), "max_new_tokens": task.max_new_tokens}
    if cutoff := task.options.get("cutoff"):
        facts["cutoff"] = cutoff
    if retain := task.options.get("retain"):
        facts["retain"] = list(retain)
    return facts


def _row(task: Task, example: Example, place: Path, own: bool) -> dict[str, Any]:
    """One line of a split's file; arrays go into files of their own."""
    if (example.choices is not None) != own:
        raise ValueError(f"task {task.name}, {example.id}: either every row brings choices of its own, or none does.")
    told = {"id": example.id, "target": example.target} | ({"choices": list(example.choices)} if example.choices is not None else {})
    fields = {name: _value(place, name, value, example) for name, value in example.fields.items()}
    if lost := [name for name in told if name in fields and fields[name] != told[name]]:
        raise ValueError(f"task {task.name}, {example.id}: the field {lost[0]!r} cannot be written beside the row's own. Rename it.")
    return {"id": example.id, **fields, **told}


def _page(document: Document) -> dict[str, Any]:
    """One line of documents.jsonl."""
    told = {"id": document.id, "title": document.title, "text": document.text}
    if lost := [name for name in document.meta if name in told or name in IDS]:
        raise ValueError(f"document {document.id}: the field {lost[0]!r} cannot be written beside the document's own. Rename it.")
    return told | dict(document.meta)


def _value(place: Path, name: str, value: Any, example: Example) -> Any:
    """A field's value, or the path, from the task's folder, of the file into which its array went."""
    if isinstance(value, np.ndarray):
        return write_array(place / name / example.id, value, example.fields).relative_to(place).as_posix()
    return value


def _write_lines(path: Path, rows: Iterable[Any], what: str = "", advance: Advance = lambda amount, what: None) -> int:
    """Write rows as JSON lines, one at a time, and return how many; without rows no file is left."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            written += 1
            advance(1, what)
    if not written:
        path.unlink()
    return written
