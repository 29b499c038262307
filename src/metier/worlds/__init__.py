"""Generated worlds with known truth. `WORLDS` names them; `world(name)` makes one."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from metier import check

if TYPE_CHECKING:
    from metier.worlds.base import World


def _scan(folder: Path) -> dict[str, str]:
    """File name -> 'module:Class' for every public file in which a class derives from World (read, not imported)."""
    found = {}
    for path in sorted(folder.glob("[!_]*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Name) and base.id == "World" for base in node.bases):
                found[path.stem] = f"metier.worlds.{path.stem}:{node.name}"
    return found


WORLDS: dict[str, str] = _scan(Path(__file__).parent)


def world(name: str, seed: int = 0, size: float = 1.0) -> World:
    """The world of that name; an unknown name is answered with the nearest."""
    module, _, cls = WORLDS[check.one_of("world", name, WORLDS)].partition(":")
    return getattr(importlib.import_module(module), cls)(seed=seed, size=size)
