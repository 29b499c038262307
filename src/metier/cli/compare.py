"""`metier compare`: which way of specialising a base is best for a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from metier.cli import options


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(compare)


def compare(
    tasks: Annotated[list[str], typer.Argument(help="Task files (JSONL, CSV, Parquet, YAML), folders, world:NAME, or hf:NAME.")],
    base: options.BaseName = "metier-tiny",
    methods: Annotated[str | None, typer.Option(help="Comma-separated; join two with '+': lora,rag+lora. Default: all that apply.")] = None,
    budget: Annotated[str | None, typer.Option(help="What one trial may spend on search and training: 90s, 5m, 2000ex, 1e6tok.")] = None,
    retain: Annotated[list[str] | None, typer.Option(help="Another task on which forgetting is measured; may be repeated.")] = None,
    ood: Annotated[str | None, typer.Option(help="A file of test examples from another distribution.")] = None,
    seeds: Annotated[int, typer.Option(help="How many seeds.", min=1)] = 3,
    out: options.Out = "out",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, fixed instead of searched: lora.rank=16; may be repeated.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Local processes.", min=1)] = 1,
    ray: options.Ray = None,
    precision: options.Precision = None,
    accumulate: options.Accumulate = 1,
    allow_leak: options.AllowLeak = False,
    family: options.Family = None,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    chat: options.Chat = None,
    truncate: options.Truncate = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and what it would cost; write nothing.")] = False,
    as_json: options.AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No plan, no progress.")] = False,
) -> None:
    """Compare ways of specialising BASE on TASKS; write OUT/report.html, OUT/report.json and OUT/best.

    Run the same command again after an interruption: finished trials are not repeated.
    """
    from metier.study.plan import chosen_methods

    wanted = [m.strip() for m in methods.split(",") if m.strip()] if methods else None
    fixed = _settings(set_ or [], wanted)
    chosen_methods(wanted, fixed)  # a slip is answered before anything is loaded
    found = options.load(base, family, dtype, device, chat, truncate)
    run(
        tasks, found, as_json, methods=wanted, budget=budget, retain=retain or (), ood=ood, seeds=seeds, out=out, settings=fixed,
        workers=workers, ray=ray, precision=precision, accumulate=accumulate, allow_leak=allow_leak, dry_run=dry_run, quiet=quiet or as_json,
    )  # fmt: skip


def _settings(pairs: list[str], methods: list[str] | None) -> dict[str, dict[str, Any]]:
    if not pairs:
        return {}
    if methods is None:
        from metier.study.plan import DEFAULT_METHODS

        methods = list(DEFAULT_METHODS)
    return options.method_settings(pairs, methods)


def run(tasks: list[str], base: Any, as_json: bool, **arguments: Any) -> None:
    """Compare, and show what came out; exit code 1 where a trial failed."""
    from metier.study import compare

    result = compare(tasks, base, **arguments)
    if not result.report:
        if as_json:
            typer.echo(json.dumps(result.plan, indent=1))
        return
    show(result.report, result.out, as_json)
    if result.report["trials"]["failed"]:
        raise typer.Exit(1)


def show(report: dict[str, Any], out: Any, as_json: bool) -> None:
    """The report on standard output: JSON, or the tables and the recommendation."""
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    from rich.console import Console

    from metier.study.report_text import terminal_table, warned

    console = Console()
    for table in terminal_table(report, console.width):
        console.print(table)
    advice = report["recommendation"]
    console.print()
    console.print(advice["headline"], style="bold", markup=False, highlight=False)
    console.print(advice["reason"], markup=False, highlight=False)
    for line in [f"{task['name']} {text}" for task in report["tasks"] for text in warned(task)]:
        console.print(f"warning {line}", markup=False, highlight=False)
    for failure in [f for f in report["failures"] if f["status"] == "failed"]:
        console.print(
            f"failed  {failure['task']} {failure['method']} seed {failure['seed']}: {failure['reason']}", markup=False, highlight=False
        )
    if report["trials"]["not_run"]:
        console.print(
            f"not run {report['trials']['not_run']} of {report['trials']['planned']} trials; the same `metier compare` runs them",
            markup=False,
        )
    typer.echo(f"\nreport  {out}/report.html")
    if (Path(out) / "best").exists():
        typer.echo(f"best    {out}/best")
