"""`metier pretrain`: the recipe of the embedded bases, or one's own; `metier worlds`: the generated tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from metier.cli import options


def register(app: typer.Typer) -> None:
    """Add the verbs."""

    @app.command()
    def pretrain(
        recipe: Annotated[str | None, typer.Argument(help="A recipe (YAML); without it, that of metier-tiny.")] = None,
        out: options.Out = "pretrained",
        minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes instead of the recipe's.", min=0.1)] = None,
    ) -> None:
        """Pretrain a small base on the worlds' text; run again to go on from the last checkpoint."""
        from metier import atomic
        from metier.train import pretrain as room

        atomic.writable(Path(out))
        room.pretrain(Path(recipe) if recipe else Path(room.__file__).parent / "recipes" / "tiny.yaml", Path(out), minutes=minutes)

    @app.command()
    def worlds(
        verb: Annotated[str | None, typer.Argument(help="Nothing (list), 'show', or 'make'.")] = None,
        name: Annotated[str | None, typer.Argument(help="A world.")] = None,
        out: options.Out = "worlds",
        seed: options.Seed = 0,
        size: Annotated[float, typer.Option(help="Factor on the number of examples.", min=0.01)] = 1.0,
        as_json: options.AsJson = False,
    ) -> None:
        """List the generated worlds; `show NAME` prints samples; `make NAME -o DIR` writes tasks as JSONL and the truth."""
        from metier.errors import UserError
        from metier.worlds import WORLDS, world

        if verb is None:
            rows = {n: (world(n, seed, 0.05).__doc__ or "").strip().split("\n")[0] for n in sorted(WORLDS)}
            typer.echo(json.dumps(rows, indent=1) if as_json else "\n".join(f"{n:12s} {doc}" for n, doc in rows.items()))
            return
        if verb not in ("show", "make") or name is None:
            raise UserError("worlds: write `metier worlds`, `metier worlds show NAME` or `metier worlds make NAME -o DIR`.")
        found = world(name, seed, size)
        if verb == "make":
            from metier.worlds.write import write_world

            write_world(found, Path(out))
            typer.echo(f"wrote {out}")
            return
        typer.echo((found.__doc__ or "").strip() + "\n")
        for task in found.tasks().values():
            sizes = ", ".join(f"{len(getattr(task, part))} {part}" for part in ("train", "dev", "test", "ood", "documents"))
            typer.echo(f"--- {task.name}: {task.kind}, {sizes}")
            for example in list(task.train or task.dev or task.test)[:3]:
                typer.echo(f"{task.prompt(example).text()}{task.separator}{example.answer}\n")
