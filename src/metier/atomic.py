"""Files and folders that are either whole or not there: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metier.errors import UserError


@contextlib.contextmanager
def folder(target: Path) -> Iterator[Path]:
    """A new folder that takes `target`'s name only if the block ends without an error; an old one is replaced."""
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        with _explained(target):
            yield draft
            os.chmod(draft, 0o755)
            if target.exists():
                old = draft.with_suffix(".old")
                os.rename(target, old)
                os.rename(draft, target)
                shutil.rmtree(old)
            else:
                os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(draft, 0o644)
            os.replace(draft, target)
        finally:
            Path(draft).unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write JSON (sorted keys, not-a-number refused) whole or not at all."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def writable(target: Path, *, need_bytes: int = 0) -> None:
    """Check at the door that a result can be written at `target`, with room for `need_bytes`."""
    place = next(p for p in (target, *target.absolute().parents) if p.exists())
    if not place.is_dir():
        raise UserError(f"{target}: {place} is a file, so nothing can be written below it. Choose another folder with -o.")
    with _explained(target):
        with tempfile.TemporaryFile(dir=place):
            pass
    free = shutil.disk_usage(place).free
    if free < need_bytes:
        raise UserError(f"{target}: {free / 1e9:.1f} GB free on this disk, about {need_bytes / 1e9:.1f} GB needed. Free some or choose -o elsewhere.")


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reasons = {errno.ENOSPC: "the disk is full", errno.EACCES: "no permission to write", errno.EROFS: "the disk is read-only"}
        if error.errno in reasons:
            raise UserError(f"{target}: {reasons[error.errno]}. Free space or choose another folder with -o.") from error
        raise
