"""`metier worlds`: the generated worlds; `show NAME`: one of them with samples; `make NAME -o DIR`: one written as files."""

from __future__ import annotations

import inspect
import itertools
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metier import progress
from metier.cli import options
from metier.errors import Failed, UserError

if TYPE_CHECKING:
    from metier.task.example import Example
    from metier.worlds.base import Sheet, World

PATIENCE = 2.0  # seconds of silence at most
SAMPLES = 3


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(worlds)


def worlds(
    verb: Annotated[str | None, typer.Argument(help="Nothing (list), 'show', or 'make'.")] = None,
    name: Annotated[str | None, typer.Argument(help="A world.")] = None,
    task: Annotated[str | None, typer.Option(help="With 'show' and 'make': only this task.")] = None,
    out: options.Out = "worlds",
    seed: options.Seed = 0,
    size: Annotated[float, typer.Option(help="Factor on the number of examples.")] = 1.0,
    corpus: Annotated[int, typer.Option(help="With 'make': so many documents to pretrain on, as corpus.jsonl.", min=0)] = 0,
    era: Annotated[int, typer.Option(help="Of the corpus: 0 is what the bases read, 1 and on later text of the same world.", min=0)] = 0,
    as_json: options.AsJson = False,
) -> None:
    """List the generated worlds; `show NAME` prints one with samples; `make NAME -o DIR` writes tasks as JSONL and the truth."""
    from metier.worlds import world

    if verb is None:
        _list(seed, size, as_json)
    elif verb not in ("show", "make") or name is None:
        raise UserError("worlds: write `metier worlds`, `metier worlds show NAME` or `metier worlds make NAME -o DIR`.")
    elif verb == "show":
        _show(world(name, seed, size), task, era, as_json)
    else:
        _make(world(name, seed, size), Path(out), task, corpus, era)


def _list(seed: int, size: float, as_json: bool) -> None:
    """Every world and its tasks; one that cannot be made is named on standard error, and the command fails after the others."""
    from metier.worlds import WORLDS, outline, world

    found, broken = [], []
    for name in WORLDS:
        try:
            found.append(outline(world(name, seed, size)))
        except UserError:  # a bad seed or size is bad for all
            raise
        except Exception as error:
            broken.append(f"{name} ({type(error).__name__}: {error})")
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(map(_listed, found)))
    if broken:
        raise Failed(f"worlds: cannot be made: {'; '.join(broken)}.")


def _listed(row: dict[str, Any]) -> str:
    tasks = [f"  {t['name']:24s} {t['kind']:9s} {_sizes(t)}" for t in row["tasks"]]
    return "\n".join([f"{row['name']}: {row['docs']}", *tasks, ""])


def _sizes(task: dict[str, Any]) -> str:
    counts = task["sizes"] | ({"documents": task["documents"]} if task["documents"] else {})
    return ", ".join(f"{n} {what}" for what, n in counts.items())


def _show(made: World, only: str | None, era: int, as_json: bool) -> None:
    from metier.worlds import outlined

    sheets = [made.sheet(only)] if only else made.sheets().values()
    told: dict[str, Any] = {"name": made.name, "docs": made.docs}
    told["tasks"] = [{**outlined(made, sheet), "samples": _samples(made, sheet)} for sheet in sheets]
    told |= {"doc": inspect.getdoc(made), "corpus": [] if only else list(itertools.islice(made.corpus(era), SAMPLES))}
    if as_json:
        typer.echo(json.dumps(told, indent=1, default=_described))
        return
    typer.echo(f"{told['doc']}\n")
    for t in told["tasks"]:
        typer.echo(f"--- {t['name']}: {t['kind']}, scored by {t['metric']}; {_sizes(t)}\n")
        for sample in t["samples"]:
            typer.echo(_shown(sample))
    if told["corpus"]:
        typer.echo("--- corpus\n\n" + "\n\n· · ·\n\n".join(told["corpus"]) + "\n")


def _samples(made: World, sheet: Sheet) -> list[dict[str, Any]]:
    """The first rows of the task's first split."""
    rows: list[Example] = list(itertools.islice(made.rows(sheet, next(iter(sheet.sizes))), SAMPLES))
    shared = {"instruction": sheet.task.instruction} if sheet.task.instruction else {}
    return [
        {**shared, "prompt": sheet.task.prompt(row).query, "answer": row.target, "choices": sheet.task.choices_of(row),
         "fields": dict(row.fields)}
        for row in rows
    ]  # fmt: skip


def _shown(sample: dict[str, Any]) -> str:
    """A sample for a person: what a model reads, then the answer, then what may be chosen and what is no text."""
    answer = sample["answer"] if isinstance(sample["answer"], str) else json.dumps(sample["answer"])
    lines = [f"{sample['instruction']}\n"] if "instruction" in sample else []
    lines.append(f"{sample['prompt']} {answer}")
    if sample["choices"]:
        lines.append(f"  (one of: {' | '.join(sample['choices'])})")
    lines += [f"  ({name}: {_described(value)})" for name, value in sample["fields"].items() if not _is_plain(value)]
    return "\n".join(lines) + "\n"


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list | tuple | dict)


def _described(value: Any) -> str:
    """An array by its type and shape."""
    return f"{value.dtype} {' x '.join(map(str, value.shape))}"


def _make(made: World, out: Path, only: str | None, corpus: int, era: int) -> None:
    from metier.worlds.write import amount, write_world

    with progress.bar(f"writing {out}", amount(made, corpus, only)) as advance:
        write_world(made, out, only=only, corpus=corpus, era=era, advance=_seldom(advance))
    typer.echo(f"wrote {out}")


def _seldom(advance: progress.Advance) -> progress.Advance:
    """The same, told at most every two seconds."""
    held, told = 0.0, time.monotonic()

    def hold(amount: float, what: str) -> None:
        nonlocal held, told
        held += amount
        if time.monotonic() - told >= PATIENCE:
            advance(held, what)
            held, told = 0.0, time.monotonic()

    return hold
