"""`metier delta overlap` and `metier delta in-sequence`: changes of several tasks beside each other, and one after another."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from metier.cli import options
from metier.cli._done import how_of, out_of, say_done
from metier.errors import UserError


def overlapping(verbs: typer.Typer) -> None:
    """Add `overlap`."""

    @verbs.command()
    def overlap(
        deltas: Annotated[list[str], typer.Argument(help="Two or more changes of one base.")],
        base: options.OfBase = None,
        as_json: options.AsJson = False,
    ) -> None:
        """Cosine between changes, which entries both change, and how many of those have the same sign.

        Shared entries: those that two changes both change, as a share of those that either changes (Jaccard), and of those that the row's
        change changes. The last is how arXiv:2302.06600 compares the grafts of tasks.
        """
        from metier.merge import _overlap, _work
        from metier.merge._numbers import all_numbers

        if len(deltas) < 2:
            raise UserError("overlap: name two changes or more.")
        changes = _work.open_changes(deltas, base)[0]
        found = _overlap.overlap(changes)
        if not all(map(math.isfinite, found["norm"][0])):
            all_numbers(changes)
        typer.echo(json.dumps({"deltas": deltas} | found) if as_json else _overlap.table([Path(d).name for d in deltas], found))


def in_sequence(verbs: typer.Typer) -> None:
    """Add `in-sequence`."""

    @verbs.command("in-sequence")
    def in_sequence(
        grafts: Annotated[list[str], typer.Argument(help="Grafts or other sparse changes of one base, in the order they were learnt.")],
        out: Annotated[str, typer.Option("--out", "-o", help="Where the result is written.")] = "sequence",
        base: options.OfBase = None,
        force: options.Force = False,
        verify: options.Verify = True,
        as_json: options.AsJson = False,
    ) -> None:
        """Add the graft of each task to those before it, which keep their entries: no later task overwrites an earlier one."""
        from metier.merge import _work, graft
        from metier.merge._heads import bodies_of

        place, (found, on) = out_of(out, force, *grafts, base), _work.open_changes(grafts, base)
        say_done(_work.keep(graft.in_sequence(bodies_of(found, on, grafts)), place, on, how_of(force, verify)), as_json)
