"""metier: give a pretrained model a trade, measure every way of doing it alike, keep the best.

The names below are imported when first used, so that `import metier` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Task": "metier.task", "Example": "metier.task", "Document": "metier.task", "Prompt": "metier.task", "load_task": "metier.task",
    "Base": "metier.model", "Specialist": "metier.model", "Change": "metier.model", "load_base": "metier.model",
    "Delta": "metier.delta", "diff": "metier.delta",
    "measure": "metier.evaluate", "Record": "metier.evaluate",
    "Budget": "metier.train", "Run": "metier.train",
    "compare": "metier.study", "adapt": "metier.study",
    "UserError": "metier.errors",
}  # fmt: skip
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from metier.delta import Delta, diff
    from metier.errors import UserError
    from metier.evaluate import Record, measure
    from metier.model import Base, Change, Specialist, load_base
    from metier.study import adapt, compare
    from metier.task import Document, Example, Prompt, Task, load_task
    from metier.train import Budget, Run


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'metier' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
