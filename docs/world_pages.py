"""The worlds' pages, made from the worlds themselves: docstring, tasks, samples and columns drawn when the documentation is built, methods."""

from __future__ import annotations

import base64
import functools
import inspect
import itertools
import json
import re
from typing import Any

from metier.worlds import WORLDS, outline, world
from metier.worlds.base import World

SPLITS = ("train", "dev", "test", "ood")
LONG = 1500  # characters of a sample that are shown
ROW = 6  # pictures or sounds side by side
LOOKED = 200  # rows of train and of ood from which a column's values are read
FEW = 8  # values of a column that are listed


def names() -> list[str]:
    """The worlds in the order of the navigation."""
    return list(WORLDS)


def pages() -> dict[str, str]:
    """Path -> page, for every world."""
    return {f"worlds/{name}.md": _page(name) for name in WORLDS}


def table() -> str:
    """One row for every world."""
    lines = ["| world | what it is | tasks |", "|---|---|---|"]
    for name in WORLDS:
        told = outline(_world(name))
        tasks = ", ".join(f"`{t['name']}`" for t in told["tasks"])
        lines.append(f"| [{name}](worlds/{name}.md) | {told['docs']} | {tasks} |")
    return "\n".join(lines)


@functools.cache
def _world(name: str) -> Any:
    return world(name)


def _page(name: str) -> str:
    made = _world(name)
    told = outline(made)
    lines = [f"# {name}", "", inspect.getdoc(made).replace("Guarantees:", "**Guarantees:**"), ""]
    command = f"metier compare world:{name}/{told['tasks'][0]['name']} --base metier-tiny"
    if _arrays(next(made.rows(next(iter(made.sheets().values())), "train"))):
        lines += [
            "The prompts are words; the bases that come with the package neither see nor hear. To train a model of your own that does:",
            "",
        ]
        command = f"metier worlds make {name} -o out/{name}"
    lines += ["```bash", command, "```", ""]
    heads = ["task", "kind", "scored by", *SPLITS, *(["documents"] if any(t["documents"] for t in told["tasks"]) else [])]
    lines += ["## Tasks", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for t in told["tasks"]:
        counts = t["sizes"] | ({"documents": t["documents"]} if t["documents"] else {})
        numbers = " | ".join(str(counts.get(head, "")) for head in heads[3:])
        lines.append(f"| [`{t['name']}`](#{t['name']}) | {t['kind']} | {t['metric']} | {numbers} |")
    lines.append("")
    for key, sheet in made.sheets().items():
        lines += [f"### {key} {{ #{key} }}", "", *_sample(made, sheet), "", *_columns(made, sheet), ""]
    lines += [*_methods(made), "## Text to pretrain on", ""]
    for text in itertools.islice(made.corpus(), 3):
        lines += [*_fenced(text), ""]
    return "\n".join(lines)


def _sample(made: Any, sheet: Any) -> list[str]:
    """The first row; of pictures and sounds some more, beside one another."""
    task = sheet.task
    rows = list(itertools.islice(made.rows(sheet, next(iter(sheet.sizes))), ROW))
    if drawn := _arrays(rows[0]):
        figures = "".join(_figure(row, row.fields[drawn[0]]) for row in rows)
        return [f'<div class="signals">{figures}</div>', "", *_choices(task, rows[0], shared_only=True)]
    row = rows[0]
    answer = row.answer if task.kind != "rank" else json.dumps(row.target)
    return [*_fenced(f"{task.prompt(row).text()}{task.separator}{answer}"), "", *_choices(task, row)]


def _arrays(row: Any) -> list[str]:
    """The fields that are pictures or sounds."""
    return [name for name, value in row.fields.items() if hasattr(value, "dtype")]


def _columns(made: Any, sheet: Any) -> list[str]:
    """What a row holds that its prompt does not show, with the values seen: what analyses slice by."""
    rows = [row for split in ("train", "ood") if split in sheet.sizes for row in itertools.islice(made.rows(sheet, split), LOOKED)]
    shown = set(re.findall(r"\{\{ *(\w+)", sheet.task.template))
    named = [name for name in rows[0].fields if name not in shown]
    told = "; ".join(f"`{name}`{_values([row.fields[name] for row in rows if name in row.fields])}" for name in named)
    return [f"Columns beside the prompt: {told}."] if told else []


def _values(values: list[Any]) -> str:
    """' 1 to 7' of numbers, ' (a, b)' of a few words, nothing of all else."""
    if all(type(value) in (int, float) for value in values):
        low, high = min(values), max(values)
        return f" {low:g}" if low == high else f" {low:g} to {high:g}"
    if all(isinstance(value, str | bool) for value in values) and len(set(values)) <= FEW:
        return f" ({', '.join(sorted(str(value).lower() if isinstance(value, bool) else value or 'empty' for value in set(values)))})"
    return ""


def _methods(made: Any) -> list[str]:
    """What this world has that others have not."""
    lines = []
    for name, member in vars(type(made)).items():
        found = (
            member.__func__
            if isinstance(member, staticmethod)
            else member.func
            if isinstance(member, functools.cached_property)
            else member
        )
        if name.startswith("_") or hasattr(World, name) or not inspect.isfunction(found):
            continue
        takes = [str(p.replace(annotation=p.empty)) for p in inspect.signature(found).parameters.values() if p.name != "self"]
        call = name if isinstance(member, functools.cached_property) else f"{name}({', '.join(takes)})"
        lines.append(f"| `{call}` | {inspect.getdoc(found).splitlines()[0]} |")
    return (
        [
            "## Also from Python",
            "",
            f'`made = world("{type(made).__module__.rpartition(".")[2]}")` has',
            "",
            "| | |",
            "|---|---|",
            *lines,
            "",
        ]
        if lines
        else []
    )


def _choices(task: Any, row: Any, *, shared_only: bool = False) -> list[str]:
    choices = task.choices if shared_only else task.choices_of(row)
    return ["One of: " + ", ".join(f"`{c}`" for c in choices[:12]) + (", ..." if len(choices) > 12 else "") + "."] if choices else []


def _figure(row: Any, array: Any) -> str:
    from metier.worlds.media import encoded

    suffix, content = encoded(array, row.fields)
    data = base64.b64encode(content).decode()
    if suffix == ".png":
        seen = f'<img src="data:image/png;base64,{data}" alt="a picture that the world drew" width="96" height="96">'
    else:
        seen = f'<audio controls src="data:audio/wav;base64,{data}"></audio>'
    return f"<figure>{seen}<figcaption>{row.fields['question']}<br><b>{row.answer}</b></figcaption></figure>"


def _fenced(text: str) -> list[str]:
    shown = text if len(text) <= LONG else text[:LONG] + " ..."
    return ["~~~~~text", shown, "~~~~~"]
