"""`metier pretrain`: the recipe of the embedded bases, or one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from metier.cli import options


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(pretrain)


def pretrain(
    recipe: Annotated[str, typer.Argument(help="tiny, early, nano, next, encoder, or a file (YAML).")] = "tiny",
    out: options.Out = "pretrained",
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes instead of the recipe's.", min=0.1)] = None,
) -> None:
    """Pretrain a small base on the worlds' text, or an encoder on their pairs; run again to go on from the last checkpoint."""
    from metier import atomic, progress
    from metier.train.pretrain import pretrain as train

    atomic.writable(Path(out))
    train(recipe, Path(out), minutes=minutes, report=lambda line: progress.say(told(line)))


def told(line: Mapping[str, Any]) -> str:
    """A line of the curve in words."""
    shown = {k: v for k, v in line.items() if k not in ("seconds", "rate")}
    return f"{line['seconds'] / 60:5.1f} min  " + "  ".join(f"{k} {v:,}" for k, v in shown.items())
