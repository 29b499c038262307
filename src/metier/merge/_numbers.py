"""Numbers: which file holds the values that are not numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from metier.delta import Between, Delta
from metier.delta.entry import Seen
from metier.delta.stored import Mapped
from metier.errors import NotNumbers, UserError


@contextlib.contextmanager
def naming(*changes: Delta) -> Iterator[None]:
    """Where a tensor turns out not to hold numbers, say in which of the changes' files: a UserError."""
    try:
        yield
    except NotNumbers as error:
        all_numbers(changes, [error.tensor])
        raise
    except RuntimeError as error:
        if type(error).__name__ == "_LinAlgError":  # torch's, which is not imported for this; it names no tensor
            all_numbers(changes)
        raise


def all_numbers(changes: Iterable[Delta], names: Sequence[str] = ()) -> None:
    """Raises UserError with file and name of the first tensor (None given: of any) that holds what is no number."""
    for change in changes:
        for name in names or change:
            if place := _source(change, name):
                raise UserError(
                    f"{place}: '{name}' holds values that are infinite or not numbers. The file is damaged or its training diverged. "
                    "Nothing was put at the output."
                )


def _source(change: Delta, name: str) -> str | None:
    """The file or folder that a change's tensor comes from, where its values are not numbers."""
    if (entry := change.entries.get(name)) is None:
        return None
    stored = entry.tuned if isinstance(entry, Between) else entry.stored if isinstance(entry, Seen) else None
    if (place := stored.file.path if isinstance(stored, Mapped) else change.source.get("path")) is None:
        return None
    values = stored.tensor if isinstance(stored, Mapped) else entry.dense()
    return None if bool(values.isfinite().all()) else str(place)
