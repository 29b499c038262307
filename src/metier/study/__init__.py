"""Studies: compare, budget, resume, report, recommend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metier.study.comparing import Comparison, adapt, compare

__all__ = ["Comparison", "adapt", "compare"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("metier.study.comparing"), name)
    raise AttributeError(f"module 'metier.study' has no attribute {name!r}")
