"""Tasks: examples, how they are shown, how answers are scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metier.task.example import Document, Example, Prompt
from metier.task.task import Kind, Task

if TYPE_CHECKING:
    from metier.task.auditing import audit
    from metier.task.load import load_task
    from metier.task.score import SCORERS

__all__ = ["SCORERS", "Document", "Example", "Kind", "Prompt", "Task", "audit", "load_task"]
_LATER = {"SCORERS": "score", "audit": "auditing", "load_task": "load"}  # name -> module, imported when first asked for


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _LATER:
        raise AttributeError(f"module 'metier.task' has no attribute {name!r}")
    return getattr(import_module(f"metier.task.{_LATER[name]}"), name)
