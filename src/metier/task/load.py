"""Loading a task from whatever it comes as: file, folder, YAML, generated world, `datasets` name; or a Task itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from metier.errors import UserError, nearest
from metier.task import source as sources
from metier.task.auditing import audit, without_leaks
from metier.task.build import answer_limits, examples_of, fill_splits, named_choices, renamed
from metier.task.documents import documents_from, load_documents
from metier.task.example import Document, Example
from metier.task.guess import guess
from metier.task.read import Row, Table, existing, read_table, read_text
from metier.task.shape import Fault, Shape, answers_of, choices_of, label_of, metric_of, template_fields
from metier.task.source import Source
from metier.task.spec import Spec, read_spec, spec_of, unclear
from metier.task.task import Task

log = logging.getLogger(__name__)
SHOWN = ("name", "template", "metric", "instruction", "separator", "stop", "max_new_tokens")  # what may be said of a finished task


def load_task(source: str | Path | Task, *, allow_leak: bool = False, overrides: Mapping[str, Any] | None = None, seed: int = 0) -> Task:
    """A task from a file, folder, YAML task file, 'world:NAME', 'hf:NAME', or a `Task`.

    Rows are audited: `allow_leak` lets test rows that occur in train pass with a warning. `overrides` are keys of a task
    file that win over it. `seed` decides splits that the data do not have. Warnings are logged and kept in
    `task.options['warnings']`. Raises `UserError` naming file, line or field, value and remedy.
    """
    if isinstance(source, Task):
        return _restated(source, overrides)
    text = str(source)
    if text.startswith("world:"):
        return _restated(_world_task(text.removeprefix("world:"), seed), overrides)
    path = Path(text).expanduser()
    if path.suffix in (".yaml", ".yml") or (path / "task.yaml").is_file():
        return _load(text, read_spec(path / "task.yaml" if path.is_dir() else path, overrides), allow_leak, seed)
    return _load(text, spec_of({**(overrides or {}), "data": text}), allow_leak, seed)


def _load(text: str, spec: Spec, allow_leak: bool, seed: int) -> Task:
    found = _source(spec)
    tables = {split: _mapped(table, spec.fields) for split, table in found.tables.items()}
    if spec.ood:
        tables["ood"] = _mapped(read_table(spec.folder / spec.ood), spec.fields)
    tables = _lowered(tables, spec)
    shape = _shape(tables, spec, found.ranked)
    examples = examples_of(tables, shape)
    choices: tuple[str, ...] = ()
    if shape.kind == "choose" and shape.options is None:
        choices = spec.choices or named_choices(tables, {s: rows for s, rows in examples.items() if s != "ood"})
        examples = renamed(examples, choices) if spec.choices else examples
    template = spec.template or shape.template
    splits, how = fill_splits(examples, template, shape.kind, seed, text)
    learnt = splits["train"] or splits["dev"] or splits["test"]
    stop, tokens = answer_limits(learnt, template) if shape.kind == "generate" else (("\n",), 48)
    task = Task(
        name=spec.name or found.name,
        kind=shape.kind,
        template=template,
        metric=spec.metric or shape.metric or metric_of([e.target for e in learnt], "context" in learnt[0].fields),
        choices=choices,
        instruction=spec.instruction or "",
        inputs=_inputs(shape) if spec.inputs is None else spec.inputs,
        separator=shape.separator if spec.separator is None else spec.separator,
        stop=spec.stop if spec.stop is not None else shape.stop or stop,
        max_new_tokens=spec.max_new_tokens or tokens,
        documents=_documents(found, spec, learnt),
        source=text,
        options=_options(found, spec, how),
        **splits,  # type: ignore[arg-type]
    )
    _fits(task)
    return _audited(task, spec, allow_leak)


def _inputs(shape: Shape) -> tuple[str, ...]:
    """What an encoder reads where the spec does not say it: one text or a pair, where it judges and does not write."""
    return shape.inputs if shape.kind != "generate" and len(shape.inputs) <= 2 else ()


def _audited(task: Task, spec: Spec, allow_leak: bool) -> Task:
    told: list[str] = []
    if spec.dedupe:
        kept, dropped = without_leaks(task)
        task = replace(task, **kept)  # type: ignore[arg-type]
        told = [f"dedupe dropped {dropped} rows of train and dev that occur in a later split."] if dropped else []
    if task.options.get("ignored"):
        told.append(f"files that are no part of the task were left aside: {', '.join(task.options['ignored'])}.")
    told += audit(task, allow_leak=allow_leak)
    for warning in told:
        log.warning("task %s: %s", task.name, warning)
    return replace(task, options={**task.options, "warnings": told}) if told else task


def _source(spec: Spec) -> Source:
    if spec.splits:
        return sources.from_splits(spec.splits, spec.folder)
    name = str(spec.data)
    if name.startswith("hf:"):
        return sources.from_hub(name.removeprefix("hf:"))
    path = spec.folder / Path(name).expanduser()
    if path.exists() or sources.looks_like_path(name) or name.count("/") > 1:
        return sources.from_path(path)
    try:
        return sources.from_hub(name)
    except UserError as error:
        here = [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] if path.parent.is_dir() else []
        raise UserError(f"no file or folder is called {name!r}.{nearest(path.name, here)} As a data set's name, {error}") from error


def _mapped(table: Table, fields: Mapping[str, str]) -> Table:
    """The table with columns under the names that the spec gives them."""
    if not fields:
        return table
    columns = table.columns
    for name, column in fields.items():
        if column not in columns:
            raise UserError(f"{table.path}: no column {column!r} (fields: {name}: {column}).{nearest(column, columns)}")
    moved = set(fields.values())

    def row_of(row: Row) -> Row:
        rest = {k: v for k, v in row.items() if k not in moved and k not in fields}
        return {**rest, **{name: row.get(column) for name, column in fields.items()}}

    return replace(table, rows=[row_of(row) for row in table.rows])


def _lowered(tables: Mapping[str, Table], spec: Spec) -> dict[str, Table]:
    """The tables with their columns' names in lower case, where only so they make the shape obvious ('Text', 'LABEL')."""
    first = _first(tables)
    named = spec.fields or spec.template or spec.inputs or spec.documents_from
    if named or all(c == c.lower() for c in first.columns) or guess(first.columns, first.rows) is not None:
        return dict(tables)
    plain = {split: {column.lower(): column for column in table.columns} for split, table in tables.items()}
    if any(len(plain[split]) < len(table.columns) for split, table in tables.items()):
        return dict(tables)
    lowered = {split: _mapped(table, plain[split]) for split, table in tables.items()}
    return lowered if guess(_first(lowered).columns, _first(lowered).rows) is not None else dict(tables)


def _first(tables: Mapping[str, Table]) -> Table:
    return next(tables[split] for split in ("", "train", "dev", "test", "ood") if split in tables)


def _shape(tables: Mapping[str, Table], spec: Spec, ranked: bool) -> Shape:
    """The shape that the spec names, else the one that the columns make obvious."""
    table = _first(tables)
    ranked = ranked or spec.kind == "rank"
    if ranked or "target" in spec.fields:
        own = "choices" in spec.fields
        kind: Any = "rank" if ranked else spec.kind or ("choose" if spec.choices or own else "generate")
        template = spec.template or ("{{ query }}" if ranked else "")
        if not template or (ranked and "target" not in table.columns):
            raise unclear(table.path, table.columns, spec.data or table.path)
        target = _grades if ranked else label_of("target") if kind == "choose" else answers_of("target")
        names, optional = template_fields(template)
        metric = "ndcg" if ranked else "accuracy" if kind == "choose" else ""
        own = own and kind == "choose"
        shape = Shape(
            kind=kind, template=template, inputs=tuple(sorted(names - optional)), target=target, metric=metric,  # type: ignore[arg-type]
            hidden=("target", "choices") if own and "choices" not in names else ("target",), options=choices_of("choices") if own else None,
        )  # fmt: skip
        return _shows(shape, table, spec)
    columns = [c for c in table.columns if c != spec.documents_from]
    guessed = guess(columns, table.rows)
    if guessed is None:
        raise unclear(table.path, table.columns, spec.data or table.path)
    if spec.choices and guessed.kind == "generate" and spec.kind != "generate" and len(guessed.hidden) == 1:
        guessed = replace(guessed, kind="choose", metric="accuracy", target=label_of(guessed.hidden[0]))
    if spec.kind and spec.kind != guessed.kind:
        column = guessed.hidden[0]
        target = label_of(column) if spec.kind == "choose" else answers_of("label_text" if "label_text" in table.columns else column)
        guessed = replace(guessed, kind=spec.kind, metric="accuracy" if spec.kind == "choose" else "", target=target, options=None)  # type: ignore[arg-type]
    if spec.template:
        names, optional = template_fields(spec.template)
        guessed = replace(guessed, template=spec.template, inputs=tuple(sorted(names - optional)))
    return _shows(guessed, table, spec)


def _shows(shape: Shape, table: Table, spec: Spec) -> Shape:
    """The shape, if its template shows what rows have and does not show the answer."""
    sample = table.rows[0]
    try:
        have = set(shape.prepare(sample) if shape.prepare else table.columns) - set(shape.hidden)
    except Fault as fault:
        raise UserError(f"{table.at(0)}: {fault}") from fault
    for name in template_fields(shape.template)[0]:
        if name in shape.hidden:
            raise UserError(f"{table.path}: the template shows '{name}', which holds the answer. Leave it out.")
        if name not in have and name not in template_fields(shape.template)[1]:
            raise UserError(f"{table.path}: the template shows '{name}', but there is no such column.{nearest(name, have)}")
    for name in spec.inputs or ():
        if name not in have:
            raise UserError(f"{table.path}: inputs names '{name}', but there is no such column.{nearest(name, have)}")
    return shape


def _grades(row: Row) -> dict[str, int]:
    """The judgements of a row to rank: {document id: grade}, or a list of the ids that are relevant."""
    value = row.get("target")
    if isinstance(value, str | int):
        value = [value]
    if isinstance(value, list) and value:
        return {str(name): 1 for name in value}
    if isinstance(value, dict) and value and all(isinstance(g, int) for g in value.values()):
        return {str(name): grade for name, grade in value.items()}
    raise Fault(f"target is {value!r}; write the ids of the relevant documents, as a list or as {{id: grade}}.")


def _documents(found: Source, spec: Spec, rows: Sequence[Example]) -> tuple[Document, ...]:
    if spec.documents:
        return load_documents(spec.folder / spec.documents)
    if spec.documents_from:
        return documents_from(
            (row[spec.documents_from] for t in found.tables.values() for row in t.rows if spec.documents_from in row), spec.documents_from
        )
    return found.documents


def _options(found: Source, spec: Spec, how: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {**found.notes, "split": dict(how)}
    if spec.choices:
        told["choices"] = "given"
    if spec.retain:
        told["retain"] = [str(spec.folder / name) if (spec.folder / name).exists() else name for name in spec.retain]
    if spec.cutoff:
        told["cutoff"] = spec.cutoff
    if spec.database:
        told["database"] = read_text(existing(spec.folder / spec.database))
    return told


def _fits(task: Task) -> None:
    from metier.task.score import SCORERS

    scorer = SCORERS[task.metric]
    if task.kind not in scorer.kinds:
        fit = [name for name, other in SCORERS.items() if task.kind in other.kinds]
        raise UserError(f"task {task.name}: the metric '{task.metric}' does not fit the kind '{task.kind}'. Fitting: {', '.join(fit)}.")


def _restated(task: Task, overrides: Mapping[str, Any] | None) -> Task:
    """A finished task with what may be said differently of it."""
    if not overrides:
        return task
    spec_of(overrides)
    for key in overrides:
        if key not in SHOWN:
            raise UserError(f"overrides: {key!r} cannot be changed on a finished task ({task.name}); only {', '.join(SHOWN)} can.")
    task = replace(task, **{key: tuple(v) if isinstance(v, list) else v for key, v in overrides.items()})  # type: ignore[arg-type]
    _fits(task)
    return task


def _world_task(name: str, seed: int) -> Task:
    from metier.worlds import WORLDS, world

    world_name, _, task_name = name.partition("/")
    if world_name not in WORLDS and (homes := [f"world:{w}/{world_name}" for w in WORLDS if world_name in world(w).sheets()]):
        raise UserError(f"world:{name}: is a task, not a world. Say {' or '.join(homes)}.")
    made = world(world_name, seed=seed)
    return made.task(task_name or next(iter(made.sheets())))
