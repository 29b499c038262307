"""Generated worlds with known truth. `WORLDS` names them; `world(name)` makes one.

`NAME.py` is a world, the folder `_NAME` what it is made of, `_shared` what several are made of.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier import check

if TYPE_CHECKING:
    from metier.worlds.base import Sheet, World

_CLASS = re.compile(r"^class (\w+)\(World\):", re.MULTILINE)  # a regular expression, because the syntax trees of all worlds take 0.1 s


def _scan(folder: Path) -> dict[str, str]:
    """File name -> 'module:Class' for every public file in which a class derives from World (read, not imported)."""
    found = ((path.stem, _CLASS.search(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("[!_]*.py")))
    return {name: f"metier.worlds.{name}:{line[1]}" for name, line in found if line}


WORLDS: dict[str, str] = _scan(Path(__file__).parent)


def world(name: str, seed: int = 0, size: float = 1.0) -> World:
    """The world of that name; an unknown name is answered with the nearest."""
    module, _, cls = WORLDS[check.one_of("world", name, WORLDS)].partition(":")
    return getattr(importlib.import_module(module), cls)(seed=seed, size=size)


def outline(made: World) -> dict[str, Any]:
    """A world in a few words: its name, what it is about, and for each task kind, metric, number of rows by split, of documents.

    A split whose items are few may end before its number is reached."""
    tasks = [outlined(made, sheet) for sheet in made.sheets().values()]
    return {"name": made.name, "docs": made.docs, "tasks": tasks}


def outlined(made: World, sheet: Sheet) -> dict[str, Any]:
    """A task in a few words."""
    task = sheet.task
    sizes = {split: made.count(n) for split, n in sheet.sizes.items()}
    return {"name": task.name, "kind": task.kind, "metric": task.metric, "sizes": sizes, "documents": len(task.documents)}
