"""`metier claims`: what papers say and whether it holds here; `run` measures one, `table` shows what was measured."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from metier.cli import options
from metier.errors import UserError

Folder = Annotated[
    str | None, typer.Option("--out", "-o", help="Folder of claims' trials and results. Default for `run`: metier/claims in the cache.")
]


def register(app: typer.Typer) -> None:
    """Add the verb and its own verbs."""
    group = typer.Typer(
        help="Papers' claims, measured here at small scale: list, run, table.", rich_markup_mode=None, no_args_is_help=False, add_completion=False,
    )  # fmt: skip
    app.add_typer(group, name="claims")
    group.callback(invoke_without_command=True)(_top)
    group.command("list")(_listed)
    group.command()(show)
    group.command()(run)
    group.command()(table)


def _top(context: typer.Context) -> None:
    """Papers' claims, measured here at small scale: list (the default), show, run, table."""
    if context.invoked_subcommand is None:
        _list()


def _listed() -> None:
    """List the claims with their verdicts."""
    _list()


def show(
    name: Annotated[str, typer.Argument(help="A claim's name, or its paper's number.")],
    figure: Annotated[str | None, typer.Option("--figure", help="Draw the effects with their intervals and bars here, as SVG.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Print one claim: what the paper says, the experiment, the rule, what was found."""
    from metier.claims import claim, result, table

    entry = claim.find(name)
    row = table.row(entry, result.stored(entry))
    if figure:
        from metier import atomic
        from metier.claims.figure import svg

        atomic.write_text(Path(figure), svg(row))
    _show(row, as_json)


def run(
    name: Annotated[str, typer.Argument(help="A claim's name, or its paper's number.")],
    out: Folder = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few examples and steps, to see that it runs; its verdict says nothing.")] = False,
    base: Annotated[
        list[str] | None, typer.Option("--base", "-b", help="Another base in the place of the claim's; once for each of them.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds. Default: the claim's.", min=1)] = None,
    store: Annotated[bool, typer.Option("--store", help="Keep the result beside the claims, so that it counts.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Run a claim's experiment and judge it by the rule in its file. Run again after an interruption, it goes on."""
    from metier.claims import claim, result

    entry = claim.find(name)
    from metier.claims import running  # imports torch, which a mistyped name need not wait for

    folder = Path(out) if out else running.default_folder()
    facts = running.run(entry, folder, quick=quick, bases=base or (), seeds=seeds, store=store, quiet=quiet or as_json)
    if as_json:
        typer.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    _found(facts)
    before = result.status(entry, result.stored(entry))
    if not quick and before not in (result.NOT_RUN, result.STALE, facts["verdict"]):
        typer.echo(f"The stored result says: {before}.")


def table(
    out: Folder = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """What each claim says and what was found: of the stored results, or of the folder where `run` was."""
    from metier.claims import table as tables

    if out is not None and not Path(out).is_dir():
        raise UserError(f"claims table: no folder {out}. Give the one that `metier claims run -o` wrote to.")
    rows = tables.rows(None if out is None else Path(out))
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    elif markdown:
        typer.echo(tables.markdown(rows), nl=False)
    else:
        for row in rows:
            typer.echo(f"{_label(row)}  {row['verdict']}\n{_block(row['statement'])}\n{_block(row['effect'] or 'no result that counts')}")


def _list() -> None:
    from metier.claims import table

    for row in table.rows():
        typer.echo(f"{_label(row)}  {row['verdict']}")


def _label(row: dict[str, Any]) -> str:
    return f"{row['number'] or 'study':>5}  {row['name']:24s} {textwrap.shorten(row['title'], 72, placeholder=' ...'):72s}"


def _block(text: str) -> str:
    return textwrap.indent(textwrap.fill(text, 110), "       ")


def _show(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(row, indent=1, ensure_ascii=False))
        return
    typer.echo(f"{_label(row).strip()}\n")
    for key in ("statement", "reported", "experiment", "rule", "limits"):
        typer.echo(f"{key.capitalize()}\n{_block(row[key] or 'none')}")
    if row["effects"]:
        _found(row)
    else:
        typer.echo(f"Verdict\n{_block(row['verdict'])}")


def _found(facts: dict[str, Any]) -> None:
    """Scores, effects, remarks and the verdict."""
    from metier.claims.result import Effect

    typer.echo("Scores")
    for name, score in facts["scores"].items():
        typer.echo(f"       {name:60s} {score['score']:.3f} [{score['low']:.3f}, {score['high']:.3f}]")
    typer.echo("Effects")
    for effect in facts["effects"]:
        part = facts["verdicts"].get(effect["name"], "")
        typer.echo(f"       {Effect(**{**effect, 'per_seed': tuple(effect['per_seed'])}).spoken()}" + (f": {part}" if part else ""))
    for remark in facts["remarks"]:
        typer.echo(_block(remark))
    quick = " (a quick run: says nothing)" if facts.get("quick") else ""
    typer.echo(f"Verdict\n       {facts['verdict']}{quick}")
