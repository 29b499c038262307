"""What a specialist did, and what that says: records, metrics, statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metier.evaluate.record import Record, read_records, write_records

if TYPE_CHECKING:
    from metier.evaluate.measuring import measure

__all__ = ["Record", "measure", "read_records", "write_records"]


def __getattr__(name: str) -> Any:
    if name == "measure":  # imports torch, which metrics and reports do without
        from metier.evaluate.measuring import measure

        return measure
    raise AttributeError(f"module 'metier.evaluate' has no attribute {name!r}")
