"""Digests of what a setting names: a trial that read other files is another trial."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from metier.merge._verdict import CARD
from metier.model.loading import EMBEDDED

AUTO = "auto"  # an embedded base, which one is the method's affair


def digest(value: Any) -> str:
    """16 hex digits of the files of a folder or file, of an embedded base, or of each of several; of a hub's name, the name.

    What verification said of a folder is not what it holds.
    """
    if isinstance(value, list | tuple):
        return _short(digest(v) for v in value)
    text = str(value)
    place = (
        EMBEDDED
        if text == AUTO
        else next((p for p in (Path(text).expanduser(), EMBEDDED / text.removeprefix("metier-")) if p.exists()), None)
    )
    if place is None or not text:
        return _short([text])
    files = sorted(p for p in place.rglob("*") if p.is_file() and p.name != CARD) if place.is_dir() else [place]
    return _short(part for p in files for part in (p.name, _file(p, p.stat().st_mtime_ns, p.stat().st_size)))


@functools.lru_cache(maxsize=1024)
def _file(path: Path, changed: int, size: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _short(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
