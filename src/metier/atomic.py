"""Files and folders that are either whole or not there: written beside their place, then renamed into it.

A draft is named after the process that writes it, so that what a killed process left is removed at the next writing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metier.errors import Unwritable, UserError

_REASONS = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "the file is larger than allowed here",
    errno.EACCES: "no permission to write", errno.EPERM: "no permission to write", errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "a file is where a folder is needed", errno.EEXIST: "a file is where a folder is needed",
    errno.EISDIR: "a folder is where a file is needed", errno.ENAMETOOLONG: "the name is too long",
}  # fmt: skip
_HERE = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:20]
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2
_HERE_NOW = -100  # AT_FDCWD


@contextlib.contextmanager
def folder(target: Path) -> Iterator[Path]:
    """A new folder that takes `target`'s name only if the block ends without an error; an old one is replaced."""
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        draft = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=".part", dir=target.parent))
    try:
        with _explained(target):
            yield draft
            os.chmod(draft, 0o755)
            if target.exists() and not _exchanged(draft, target):
                old = draft.with_suffix(".old.part")
                os.rename(target, old)
                os.rename(draft, target)
                shutil.rmtree(old)
            elif draft.exists() and not target.exists():
                os.rename(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns."""
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        handle, draft = tempfile.mkstemp(prefix=_prefix(target), suffix=".part", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(draft, 0o644)
            os.replace(draft, target)
        finally:
            Path(draft).unlink(missing_ok=True)
        place = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(place)
        finally:
            os.close(place)


def write_text(target: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    write_bytes(target, text.encode("utf-8"))


def write_json(target: Path, value: Any) -> None:
    """Write JSON (sorted keys, not-a-number refused) whole or not at all."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def writable(target: Path, *, need_bytes: int = 0) -> None:
    """Check at the door that a result can be written at `target`, with room for `need_bytes`."""
    place = next(p for p in (target, *target.absolute().parents) if p.exists())
    if not place.is_dir():
        raise UserError(f"{target}: {place} is a file, so nothing can be written below it. Choose another folder with -o.")
    try:
        with _explained(target), tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:  # places where files cannot be made at all (/proc)
        raise Unwritable(f"{target}: nothing can be written there ({error.strerror}). Choose another folder with -o.") from error
    free = shutil.disk_usage(place).free
    if free < need_bytes:
        raise UserError(
            f"{target}: {free / 1e9:.1f} GB free on this disk, about {need_bytes / 1e9:.1f} GB needed. Free some or choose -o elsewhere."
        )


def _prefix(target: Path) -> str:
    return f".{target.name[:100]}.{_HERE}-{os.getpid()}."


def _sweep(target: Path) -> None:
    """Remove drafts of `target` whose process, on this machine, is gone."""
    pattern = re.compile(re.escape(f".{target.name[:100]}.{_HERE}-") + r"(\d+)\..*\.part")
    for left in target.parent.iterdir():
        if (match := pattern.fullmatch(left.name)) and not _alive(int(match[1])):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _exchanged(draft: Path, target: Path) -> bool:
    """Swap two folders in one step, so that there is no moment without a target. False where the system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return swap(_HERE_NOW, os.fsencode(draft), _HERE_NOW, os.fsencode(target), _EXCHANGE) == 0


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if reason := _reason(error):
            raise Unwritable(f"{target}: {reason}. Free space or choose another folder with -o.") from error
        raise


def _reason(error: Exception) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    if type(error).__name__ == "SafetensorError" and (match := re.search(r"os error (\d+)", str(error))):
        number = int(match[1])
    return _REASONS.get(number) if number is not None else None
