"""`metier papers`: the literature, and what of it exists here; `metier papers show N`: one paper."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from typing import Annotated, Any

import typer

from metier import check
from metier.cli import options
from metier.errors import UserError, nearest


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(papers)


def papers(
    show: Annotated[str | None, typer.Argument(help="'show', to print one paper.", metavar="[show]")] = None,
    number: Annotated[int | None, typer.Argument(help="With 'show': the paper's number.")] = None,
    room: Annotated[str | None, typer.Option(help="Only papers of this room.")] = None,
    status: Annotated[str | None, typer.Option(help="Only papers that are 'works', 'partly' or 'not yet'.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the papers with what of each exists here, or print one: `metier papers show 25`.

    A paper works when its methods are registered and its claim has a result; this is computed, not written by hand.
    """
    from metier.claims import papers as listed

    if show is not None:
        if show != "show" or number is None:
            asked = show if show.isdecimal() else 25
            raise UserError(f"papers: unexpected {show!r}. Write `metier papers`, or `metier papers show {asked}`.")
        _one(listed.state(listed.find(number)), as_json)
        return
    rooms = sorted({p.room for p in listed.papers()})
    if room is not None and room not in rooms:
        raise UserError(f"papers: unknown room {room!r}.{nearest(room, rooms)}")
    wanted = None if status is None else check.one_of("status", status.replace("-", " "), listed.STATUSES)
    states = [listed.state(p) for p in listed.papers() if room in (None, p.room)]
    states = [s for s in states if wanted in (None, s["status"])]
    if as_json:
        typer.echo(json.dumps(states, indent=1, ensure_ascii=False))
        return
    for state in states:
        here = ", ".join(m["method"] for m in state["exists"]["methods"])
        typer.echo(f"{state['number']:4d}  {state['status']:8s} {state['room']:9s} {_short(state['title'], 84):84s} {here}".rstrip())
    count = Counter(s["status"] for s in states)
    typer.echo(f"{len(states)} papers: " + ", ".join(f"{count[s]} {s}" for s in listed.STATUSES if wanted in (None, s)))


def _one(state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(state, indent=1, ensure_ascii=False))
        return
    typer.echo(f"{state['number']}  {state['title']}\n")
    typer.echo(f"Kind        {state['kind']}, room {state['room']}\nParts       {', '.join(state['ids'])}\nStatus      {state['status']}")
    for method in state["exists"]["methods"]:
        typer.echo(f"Method      {method['method']}: {_short(method['summary'].partition(': ')[2] or method['summary'], 110)}")
    for claim in state["exists"]["claims"]:
        typer.echo(f"Claim       {claim['claim']}: {claim['verdict']}")
    for missing in state["missing"]:
        typer.echo(f"Missing     {missing}")


def _short(text: str, width: int) -> str:
    return textwrap.shorten(text, width, placeholder=" ...")
