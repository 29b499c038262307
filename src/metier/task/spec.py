"""Spec: what a task file (YAML) or `overrides` say about a task, checked strictly, all faults reported at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metier.errors import UserError, nearest
from metier.task.read import existing, read_text

SPLIT_NAMES = {"train": ("train", "training"), "dev": ("dev", "valid", "validation", "val"), "test": ("test",), "ood": ("ood",)}
EXAMPLE = """\
    data: {data}
    fields:
      target: {column}        # the column that holds the right answer
    template: "{{{{ {other} }}}}\\nAnswer:"
    # choices: [yes, no]      # only where one of a few is chosen (quote "yes" and "no")"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A task as its user describes it; what is None or empty follows from the data.

    name           of the task
    kind           'choose', 'generate' or 'rank'
    data           file, folder or 'hf:NAME' (or give `splits`)
    splits         train, dev, test -> file
    fields         name in the template -> column; 'target' is the column of the answer, 'choices' that of a row's own choices
    template       Jinja2 over the fields; ends where the answer begins
    choices        what may be chosen; also the names of integer labels 0, 1, ...
    metric         a scorer
    instruction    put before the exemplars and the query
    inputs         fields that an encoder reads as they are (none: the template's text)
    documents      file or folder of texts that may be retrieved
    documents_from a field whose distinct texts become the documents (and leave the guessed template)
    ood            a test file from another distribution
    retain         other tasks on which forgetting is measured
    separator      between query and answer
    stop           texts that end a generated answer (none: only the limit of tokens does)
    max_new_tokens of a generated answer
    cutoff         rank at which ndcg, mrr and recall stop
    database       file of SQL statements (CREATE, INSERT) on which SQL answers run
    dedupe         drop rows from train (and dev) that occur in dev, test or ood
    """

    name: str | None = None
    kind: str | None = None
    data: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    choices: tuple[str, ...] = ()
    metric: str | None = None
    instruction: str | None = None
    inputs: tuple[str, ...] | None = None
    documents: str | None = None
    documents_from: str | None = None
    ood: str | None = None
    retain: tuple[str, ...] = ()
    separator: str | None = None
    stop: tuple[str, ...] | None = None
    max_new_tokens: int | None = None
    cutoff: int | None = None
    database: str | None = None
    dedupe: bool = False
    folder: Path = Path()


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value.strip() else "must be a text"


def _any_text(value: Any) -> str | None:
    return None if isinstance(value, str) else "must be a text"


def _texts(value: Any) -> str | None:
    return _any_texts(value) if value else "must be a list of texts"


def _any_texts(value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return "must be a list of texts"
    for item in value:
        if isinstance(item, bool):
            word = "yes or no, on or off, true or false"
            return f"holds {item!r} (YAML reads a bare {word} as a truth value): put it in quotes"
        if not isinstance(item, str):
            return f"holds {item!r}, which is no text: put it in quotes"
    repeated = [item for item in value if list(value).count(item) > 1]
    return f"holds {repeated[0]!r} twice" if repeated else None


def _count(value: Any) -> str | None:
    return None if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else "must be a whole number of at least 1"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _names(value: Any) -> str | None:
    if not isinstance(value, dict) or not value:
        return "must be a mapping of names to texts"
    wrong = [f"{k!r}: {v!r}" for k, v in value.items() if not isinstance(k, str) or not isinstance(v, str) or not v.strip()]
    return f"must map names to texts; got {wrong[0]}" if wrong else None


def _splits(value: Any) -> str | None:
    wrong = _names(value) or next((f"has the unknown split {n!r}.{nearest(n, SPLIT_NAMES)}" for n in value if n not in SPLIT_NAMES), None)
    return wrong or (None if "train" in value or "test" in value else "must name a train or a test file")


def _kind(value: Any) -> str | None:
    kinds = ("choose", "generate", "rank")
    return None if value in kinds else f"is unknown.{nearest(str(value), kinds)}"


def _metric(value: Any) -> str | None:
    from metier.task.score import SCORERS

    return None if isinstance(value, str) and value in SCORERS else f"is unknown.{nearest(str(value), SCORERS)}"


def _template(value: Any) -> str | None:
    from metier.task.shape import template_fields

    if not isinstance(value, str) or not value.strip():
        return "must be a text"
    try:
        return None if template_fields(value)[0] else "shows no field: write {{ text }} where the row's text belongs"
    except UserError as error:
        return f"is not Jinja2 ({error})"


KEYS: dict[str, Callable[[Any], str | None]] = {
    "name": _text,
    "kind": _kind,
    "data": _text,
    "splits": _splits,
    "fields": _names,
    "template": _template,
    "choices": _texts,
    "metric": _metric,
    "instruction": _any_text,
    "inputs": _any_texts,
    "documents": _text,
    "documents_from": _text,
    "ood": _text,
    "retain": _texts,
    "separator": _any_text,
    "stop": _any_texts,
    "max_new_tokens": _count,
    "cutoff": _count,
    "database": _text,
    "dedupe": _flag,
}


def spec_of(mapping: Mapping[str, Any], *, where: str = "overrides", folder: Path = Path(), lines: Mapping[str, int] | None = None) -> Spec:
    """A checked spec. Raises one `UserError` that lists every fault, with the line where `lines` knows it."""
    faults = []
    for key, value in mapping.items():
        if key not in KEYS:
            faults.append((key, f"unknown key {key!r}.{nearest(str(key), KEYS)}"))
        elif fault := KEYS[key](value):
            shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "..."
            faults.append((key, f"{key} {fault}; got {shown}." if not fault.endswith(".") else f"{key} {shown} {fault}"))
    if "data" in mapping and "splits" in mapping:
        faults.append(("splits", "give either data or splits, not both."))
    if faults:
        told = [f"line {lines[key]}: {text}" if lines and key in lines else text for key, text in faults]
        raise UserError(f"{where}: {told[0]}" if len(told) == 1 else f"{where}: {len(told)} errors.\n  " + "\n  ".join(told))
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in mapping.items()}
    return Spec(**plain, folder=folder)  # type: ignore[arg-type]


def read_spec(path: Path, overrides: Mapping[str, Any] | None = None) -> Spec:
    """The spec of a YAML file; `overrides` win over it."""
    mapping, lines = _yaml(path)
    if not any(key in mapping for key in ("data", "splits")) and "data" in KEYS and not {"data", "splits"} & set(overrides or {}):
        unknown = [key for key in mapping if key not in KEYS]
        if not unknown:
            raise UserError(f"{path}: neither 'data' nor 'splits' is given. Write, for instance, 'data: rows.csv'.")
    return spec_of({**mapping, **(overrides or {})}, where=str(path), folder=path.parent, lines=lines)


def _yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    import yaml

    text = read_text(existing(path))
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}:{line}: not valid YAML ({error.problem}). Put texts that hold ':', '{{' or '#' in quotes.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({error}).") from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(content, dict):
        raise UserError(f"{path}: a task file is a mapping of keys to values, such as 'data: rows.csv'.")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.value in lines:
            raise UserError(f"{path}:{key.start_mark.line + 1}: the key {key.value!r} was already given on line {lines[key.value]}.")
        lines[key.value] = key.start_mark.line + 1
    return content, lines


def unclear(path: str, columns: list[str], data: str) -> UserError:
    """The error for a table whose columns do not say what is asked and what is the answer; it shows the YAML to write."""
    names = [c for c in columns if not c.lower().endswith("id")] or columns
    other, last = (names[0], "chosen" if "chosen" in names else names[-1]) if len(names) > 1 else ("text", names[0])
    header = " (is the first line a header?)" if ".csv" in path or ".tsv" in path else ""
    shown = EXAMPLE.format(data=data, column=last, other=other)
    return UserError(
        f"{path}: it is not obvious which column is the answer; the columns are: {', '.join(columns)}{header}. "
        f"Say it in a task file, for instance task.yaml:\n{shown}"
    )
