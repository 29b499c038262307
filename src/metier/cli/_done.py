"""What `metier delta` and `metier merge` say of what they will write and of what they wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from metier.delta import Checkpoint
    from metier.merge._work import Done, How


def how_of(force: bool, verify: bool, ray: str | None = None) -> How:
    """How a result is written, as the flags say."""
    from metier.merge._work import How

    return How(force, verify, ray=ray)


def out_of(out: str | Path, force: bool, *inputs: str | Path | None) -> Path:
    """Where the result is put, looked at before anything is read: see `vacant`."""
    from metier.delta.place import vacant

    return vacant(out, force, [i for i in inputs if i is not None])


def planned(base: Checkpoint, places: list[str], out: str | Path, dry_run: bool, as_json: bool) -> bool:
    """Print the plan where that is all that is wanted."""
    from metier.merge import _work

    if dry_run:
        say_plan(_work.plan(base, places, Path(out).expanduser()), as_json)
    return dry_run


def say_plan(plan: dict[str, Any], as_json: bool) -> None:
    """A plan, for a person or as JSON."""
    if as_json:
        typer.echo(json.dumps(plan))
        return
    typer.echo(f"reads      {plan['bytes_read'] / 1e6:.4g} MB")
    typer.echo(f"writes     {plan['bytes_written'] / 1e6:.4g} MB, {plan['tensors']} tensors in {', '.join(plan['shards'])}")
    typer.echo(f"memory     at most about {plan['peak_memory'] / 1e6:.0f} MB")
    typer.echo(f"output     {plan['out']}{' (there already: needs --force)' if plan['there'] else ''}")


def say_done(done: Done, as_json: bool, words: str = "", **facts: Any) -> None:
    """What was written; warnings go to standard error."""
    from metier import progress

    for warning in done.verdict.warnings if done.verdict else ():
        progress.say(f"warning    {warning}")
    if as_json:
        typer.echo(json.dumps(done.json() | facts))
        return
    typer.echo(f"saved      {done.out}: {done.bytes / 1e6:.4g} MB")
    if words:
        typer.echo(words)
    typer.echo(done.verdict.text() if done.verdict else "verified   no (--no-verify)")
