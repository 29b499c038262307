"""Audit: what would make scores on a task wrong or meaningless: leaks, unseen labels, empty texts, lone examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from metier.errors import UserError
from metier.task.example import Example
from metier.task.shape import template_fields
from metier.task.task import Sealed, Task

Key = tuple[str, ...]
LOOKED_AT = (("train", "test"), ("train", "dev"), ("dev", "test"), ("train", "ood"), ("dev", "ood"))


def audit(task: Task, *, allow_leak: bool = False) -> list[str]:
    """Warnings about a task, worst first. Raises `UserError` for what makes it unusable.

    Errors: an empty text, a right answer that is not among the choices, a label that train lacks or has once (unless the
    choices were given by name), a judgement on an unknown document, test rows that occur in train (unless `allow_leak`).
    """
    splits = {name: () if isinstance(task.split(name), Sealed) else task.split(name) for name in ("train", "dev", "test", "ood")}
    if not any(splits.values()):
        raise UserError(f"task {task.name}: no examples at all.")
    names = shown_fields(task)
    for examples in splits.values():
        _texts(task, examples)
    if task.kind == "rank":
        warnings = _judgements(task, splits)
    else:
        warnings = _labels(task, splits) if task.kind == "choose" else []
    keys = {split: [input_key(e, names) for e in examples] for split, examples in splits.items()}
    leaks = _leaks(task, keys, splits, allow_leak)
    return [*leaks, *warnings, *_repeats(splits["train"], keys["train"])]


def shown_fields(task: Task) -> tuple[str, ...]:
    """The fields that the task's template shows, sorted."""
    return tuple(sorted(template_fields(task.template)[0]))


def input_key(example: Example, names: Sequence[str]) -> Key:
    """What an example shows, with case and spacing folded; equal keys are the same question."""
    shown = tuple(" ".join(str(example.fields.get(name, "")).split()).casefold() for name in names)
    return (*shown, *(example.choices or ()))


def without_leaks(task: Task) -> tuple[dict[str, tuple[Example, ...]], int]:
    """(train and dev without rows that occur in a later split of train, dev, test and ood; how many were dropped)."""
    names = shown_fields(task)
    barred = {input_key(e, names) for e in (*task.test, *task.ood)}
    dev = tuple(e for e in task.dev if input_key(e, names) not in barred)
    barred |= {input_key(e, names) for e in dev}
    train = tuple(e for e in task.train if input_key(e, names) not in barred)
    return {"train": train, "dev": dev}, len(task.dev) - len(dev) + len(task.train) - len(train)


def _texts(task: Task, examples: Sequence[Example]) -> None:
    names, optional = template_fields(task.template)
    for example in examples:
        for name in names - optional:
            if name not in example.fields:
                have = ", ".join(example.fields)
                raise UserError(f"task {task.name}, {example.id}: the template shows '{name}', which the row lacks; it has: {have}.")
            value = example.fields[name]
            if value is None or (isinstance(value, str) and not value.strip()):
                raise UserError(f"task {task.name}, {example.id}: {name} is empty. Fill it in or remove the row.")


def _labels(task: Task, splits: dict[str, Sequence[Example]]) -> list[str]:
    for split, examples in splits.items():
        unknown = Counter(e.answer for e in examples if e.answer not in task.choices_of(e))
        if unknown:
            _unknown(task, split, examples, unknown)
    if any(e.choices is not None for e in splits["train"]) or not splits["train"]:
        return []
    counts = Counter(e.answer for e in splits["train"])
    if len(task.choices) < 2:
        raise UserError(
            f"task {task.name}: every row has the label {_some(task.choices)}: there is nothing to choose. Is this the right column?"
        )
    lone = [label for label in counts if counts[label] == 1]
    missing = [label for label in task.choices if label not in counts]
    given = task.options.get("choices") == "given"
    if lone and not given:
        at = next(e.id for e in splits["train"] if e.answer == lone[0])
        raise UserError(
            f"task {task.name}, {at}: the class {lone[0]!r} has a single example in train{_more(lone)}. Add examples, remove it, "
            f"or list all choices in a task file to go on as it is."
        )
    told = [f"{len(lone)} classes have a single example in train: {_some(lone)}."] if lone else []
    return told + ([f"{len(missing)} choices have no example in train: {_some(missing)}."] if missing else [])


def _unknown(task: Task, split: str, examples: Sequence[Example], unknown: Counter[str]) -> None:
    label, count = unknown.most_common(1)[0]
    first = next(e for e in examples if e.answer == label)
    if first.choices is not None:
        raise UserError(f"task {task.name}, {first.id}: the answer {label!r} is not among its choices {list(first.choices)}.")
    what = "that train lacks" if split != "train" else "that is not among the choices"
    raise UserError(
        f"task {task.name}, {first.id}: {split} has the label {label!r} ({count} rows{_more(list(unknown))}) {what}; known: "
        f"{_some(task.choices)}. Correct it, add examples of it to train, or list all choices in a task file."
    )


def _judgements(task: Task, splits: dict[str, Sequence[Example]]) -> list[str]:
    known = {document.id for document in task.documents}
    if not known:
        raise UserError(f"task {task.name}: nothing to rank: it has no documents. Give documents (a file or a folder).")
    idle = 0
    for example in (e for examples in splits.values() for e in examples):
        strange = [name for name in example.target if name not in known]
        if strange:
            raise UserError(f"task {task.name}, {example.id}: judges the document {strange[0]!r}, which is not among the documents.")
        idle += not any(grade > 0 for grade in example.target.values())
    return [f"{idle} queries have no relevant document; they score 0."] if idle else []


def _leaks(task: Task, keys: dict[str, list[Key]], splits: dict[str, Sequence[Example]], allow_leak: bool) -> list[str]:
    told = []
    for early, late in LOOKED_AT:
        where = dict(zip(reversed(keys[early]), (e.id for e in reversed(splits[early])), strict=True))
        hits = [(e.id, where[key]) for e, key in zip(splits[late], keys[late], strict=True) if key in where]
        if not hits:
            continue
        text = f"{len(hits)} of {len(keys[late])} {late} rows also occur in {early} (case and spacing folded; first: {hits[0][0]} = {hits[0][1]})"
        if (early, late) == ("train", "test") and not allow_leak:
            raise UserError(
                f"task {task.name}: {text}; scores on them would flatter. Drop them from train with dedupe: true, "
                f"or go on as it is with --allow-leak (allow_leak=True)."
            )
        told.append(text + ".")
    return told


def _repeats(examples: Sequence[Example], keys: Sequence[Key]) -> list[str]:
    answers: dict[Key, set[str]] = {}
    for example, key in zip(examples, keys, strict=True):
        answers.setdefault(key, set()).add(str(example.target))
    again = len(keys) - len(answers)
    torn = sum(len(a) > 1 for a in answers.values())
    return ([f"{again} of {len(keys)} train rows repeat another."] if again else []) + (
        [f"questions of train that occur with different answers: {torn}."] if torn else []
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(n) for n in list(names)[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")


def _more(names: Sequence[str]) -> str:
    return f", and so {len(names) - 1} more" if len(names) > 1 else ""
