"""From tables to a task: rows to examples, choices from labels, missing splits, limits on the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from metier.errors import UserError
from metier.task.auditing import input_key
from metier.task.example import Example
from metier.task.read import Row, Table
from metier.task.shape import Fault, Shape, template_fields
from metier.task.split import FEWEST, cut

IDS = ("id", "_id", "task_id", "uid", "guid", "qid", "uuid")
ONE_TABLE = "60/20/20 of one table"


def examples_of(tables: Mapping[str, Table], shape: Shape) -> dict[str, tuple[Example, ...]]:
    """Every table's rows as examples. Raises `UserError` naming file, line and field of the first row that will not do."""
    key = _id_column(tables)
    return {split: _examples(split, table, shape, key) for split, table in tables.items()}


def _examples(split: str, table: Table, shape: Shape, key: str | None) -> tuple[Example, ...]:
    _one_type(table, shape)
    made: list[Example] = []
    faults: list[tuple[int, str]] = []
    for index, row in enumerate(table.rows):
        try:
            made.append(_example(split or "row", table.lines[index], row, shape, key))
        except Fault as fault:
            faults.append((index, str(fault)))
    if faults:
        index, text = faults[0]
        more = f" ({len(faults) - 1} more rows have faults, the next on line {table.lines[faults[1][0]]}.)" if len(faults) > 1 else ""
        raise UserError(f"{table.at(index)}: {text}{more}")
    return tuple(made)


def _example(split: str, line: int, row: Row, shape: Shape, key: str | None) -> Example:
    target = shape.target(row)
    choices = shape.options(row) if shape.options else None
    shown = shape.prepare(row) if shape.prepare else row
    for name in shape.inputs:
        value = shown.get(name)
        if value is None or (isinstance(value, str) and not value.strip()) or value != value:
            raise Fault(f"{name} is {'missing' if value is None else 'NaN' if value != value else 'empty'}. Fill it in or remove the row.")
    fields = {k: v for k, v in shown.items() if k not in shape.hidden and k != key}
    return Example(str(row[key]) if key else f"{split}:{line}", fields, target, choices)


def _id_column(tables: Mapping[str, Table]) -> str | None:
    """The column that names every row of every split differently, if one of the usual ones does."""
    for name in IDS:
        values = [str(row.get(name) or "") for table in tables.values() for row in table.rows]
        if "" not in values and len(set(values)) == len(values):
            return name
    return None


def _one_type(table: Table, shape: Shape) -> None:
    for name in {*shape.inputs, *shape.hidden}:
        first: dict[str, int] = {}
        for index, row in enumerate(table.rows):
            value = row.get(name)
            if value is not None:
                first.setdefault(_type(value), index)
        if len(first) > 1:
            (a, i), (b, j) = sorted(first.items(), key=lambda item: item[1])[:2]
            raise UserError(
                f"{table.at(j)}: {name} is {b} {table.rows[j][name]!r:.60} here and {a} on line {table.lines[i]}. Write all rows alike."
            )


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "the truth value"
    if isinstance(value, int | float):
        return "the number"
    names = {"str": "the text", "list": "the list", "tuple": "the list", "dict": "the object"}
    return names.get(type(value).__name__, f"the {type(value).__name__}")


def named_choices(tables: Mapping[str, Table], examples: Mapping[str, Sequence[Example]]) -> tuple[str, ...]:
    """Choices from the labels of train (of all splits if there is no train): in the order of their numbers, else sorted."""
    source = [split for split in ("", "train") if examples.get(split)] or list(examples)
    labels = {e.answer for split in source for e in examples[split]}
    numbers: dict[str, int] = {}
    for split in source:
        table = tables[split]
        if {"label", "label_text"} <= set(table.columns):
            for index, row in enumerate(table.rows):
                number, name = row["label"], str(row["label_text"]).strip()
                if isinstance(number, int) and numbers.setdefault(name, number) != number:
                    raise UserError(
                        f"{table.at(index)}: label_text {name!r} has label {number} here and {numbers[name]} before. Make them agree."
                    )
    if set(numbers) >= labels and len(set(numbers.values())) == len(numbers):
        return tuple(sorted(labels, key=lambda name: numbers[name]))
    if all(label.lstrip("-").isdigit() for label in labels):
        return tuple(sorted(labels, key=int))
    return tuple(sorted(labels))


def renamed(examples: Mapping[str, Sequence[Example]], choices: Sequence[str]) -> dict[str, tuple[Example, ...]]:
    """Integer labels 0, 1, ... replaced by the given names, where no label is itself one of the names."""
    labels = {e.answer for rows in examples.values() for e in rows}
    numbers = {str(i): name for i, name in enumerate(choices)}
    if labels & set(choices) or not labels <= set(numbers):
        return {split: tuple(rows) for split, rows in examples.items()}
    return {split: tuple(replace(e, target=numbers[e.answer]) for e in rows) for split, rows in examples.items()}


def fill_splits(
    examples: Mapping[str, Sequence[Example]], template: str, kind: str, seed: int, where: str
) -> tuple[dict[str, tuple[Example, ...]], dict[str, Any]]:
    """train, dev, test and ood from what there is; and what was done, for `Task.options['split']`.

    One table: 60/20/20. No dev: 15 % of train. Train and dev but no test: dev is the test, and dev is taken from train.
    Tables without train stay as they are: there is nothing to learn from. `where` names the source in errors.
    """
    have = {split: tuple(rows) for split, rows in examples.items()}
    told: dict[str, Any] = {}
    if list(have) == ["train"] or (set(have) == {"train", "ood"}):
        have[""] = have.pop("train")
    if not have.get("train") and have.get("test") and "dev" not in have and "" not in have:
        told = {"how": "test only, as given"}
    if "" in have:
        whole = have.pop("")
        if len(whole) < FEWEST:
            raise UserError(
                f"{where}: {len(whole)} rows are too few to be split into train, dev and test. Give at least {FEWEST}, or separate files."
            )
        have["train"], have["dev"], have["test"] = _cut(whole, template, kind, seed, (0.6, 0.8), where)
        told = {"how": ONE_TABLE, "seed": seed}
    if have.get("train") and have.get("dev") and not have.get("test"):
        have["test"] = have.pop("dev")
        told = {"how": "no test was given: the dev split is the test, and dev is 15 % of train", "seed": seed}
    if have.get("train") and not have.get("dev"):
        told = told or {"how": "dev is 15 % of train", "seed": seed}
        have["train"], have["dev"] = _cut(have["train"], template, kind, seed, (0.85,), where)
    return {split: have.get(split, ()) for split in ("train", "dev", "test", "ood")}, told or {"how": "as given"}


def _cut(examples: Sequence[Example], template: str, kind: str, seed: int, at: Sequence[float], where: str) -> list[tuple[Example, ...]]:
    names = sorted(template_fields(template)[0])
    keys = [input_key(e, names) for e in examples]
    classes = [e.answer if kind == "choose" and e.choices is None else "" for e in examples]
    return cut(examples, keys, classes, seed, at, where)


def answer_limits(examples: Sequence[Example], template: str) -> tuple[tuple[str, ...], int]:
    """(stop, max_new_tokens) for generated answers.

    An answer ends with its line; if answers have lines, with a blank line; if they have those too, where the next query
    would begin. Tokens: a third of the 95th percentile of the characters, plus 8, between 16 and 512.
    """
    answers = [e.answer for e in examples]
    blank, line = any("\n\n" in a.strip() for a in answers), any("\n" in a.strip() for a in answers)
    lengths = sorted(len(a) for a in answers) or [0]
    tokens = lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))] // 3 + 8
    start = template.partition("{")[0].rstrip()
    stop = ("\n\n\n", *([f"\n\n{start}"] if start else [])) if blank else ("\n\n",) if line else ("\n",)
    return stop, min(512, max(16, tokens))
