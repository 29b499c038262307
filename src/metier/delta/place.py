"""Place: where a result is put. Looked at before anything is read, and given the result's name in one step when it is whole."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from metier.errors import Unwritable, UserError

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD; RENAME_EXCHANGE, and RENAME_SWAP of macOS
MARKS = ("metier.json", "delta.json", "specialist.json")  # one of these lies in whatever metier writes
_REASONS = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "the file is larger than allowed here",
    errno.EACCES: "no permission to write", errno.EPERM: "no permission to write", errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "a file is where a folder is needed", errno.EEXIST: "a file is where a folder is needed",
    errno.ENAMETOOLONG: "the name is too long",
}  # fmt: skip


def vacant(out: Path | str, force: bool = False, inputs: Iterable[Path | str] = ()) -> Path:
    """`out` as an absolute path, links followed, where a result may be put: nothing is there, or an empty folder, or (force) an older result.

    Raises UserError where something else is there, which is never replaced, where `out` is one of the inputs or holds one, and where
    nothing can be written. Writes nothing.
    """
    with explained(Path(out)):
        place = Path(os.path.realpath(Path(out).expanduser()))
        if place.is_symlink():
            raise UserError(f"{out}: is a symbolic link that leads in a circle. Choose another folder with -o.")
        put_back(place)
        for given in inputs:
            if Path(given).expanduser().exists() and place in ((real := Path(given).expanduser().resolve()), *real.parents):
                what = "is read for this result" if place == real else f"holds {given}, which is read for this result"
                raise UserError(f"{out}: {what}, and is not replaced. Choose another folder with -o.")
        if place.exists() and not place.is_dir():
            raise UserError(f"{out}: is a file. Choose a folder with -o.")
        if place.exists() and any(place.iterdir()):
            if not any((place / mark).is_file() for mark in MARKS):
                raise UserError(f"{out}: holds something that metier did not write, which is not replaced. Choose another folder with -o.")
            if not force:
                raise UserError(f"{out}: is there already. Choose another folder with -o, or say --force to replace it.")
        _takes_files(Path(out), place)
    return place


def _takes_files(out: Path, place: Path) -> None:
    above = next(p for p in place.parents if p.exists())
    if not above.is_dir():
        raise UserError(f"{out}: {above.name} is a file, so nothing can be written below it. Choose another folder with -o.")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:  # among others, places where no file can be made at all, as /proc
        reason = _REASONS.get(error.errno or 0, error.strerror)
        raise Unwritable(f"{out}: nothing can be written in {above}: {reason}. Choose another folder with -o.") from error


@contextlib.contextmanager
def explained(out: Path) -> Iterator[None]:
    """A full disk or a folder without permission as an error for people."""
    try:
        yield
    except OSError as error:
        if error.errno in _REASONS:
            raise Unwritable(f"{out}: {_REASONS[error.errno]}. Free space or choose another folder with -o.") from error
        raise


def renamed(draft: Path, out: Path) -> None:
    """Give a finished folder its name; what had it before is removed.

    Linux and macOS swap the two in one step. Elsewhere, and on disks that cannot, the old one has a hidden name for a moment; `put_back`
    gives it its own again where a process was killed just then.
    """
    old, gone = _hidden(out, "old"), _hidden(out, "gone")
    for left in (gone, old) if out.exists() else (gone,):
        removed(left)
    if out.exists() and _exchanged(draft, out):
        os.rename(draft, gone)
    elif out.exists():
        os.rename(out, old)
        os.rename(draft, out)
        os.rename(old, gone)
    else:
        os.rename(draft, out)
    removed(gone)


def put_back(out: Path) -> None:
    """Give an older output its name again, where a killed process had taken it and given it to no other."""
    if not out.exists() and _hidden(out, "old").exists():
        os.rename(_hidden(out, "old"), out)


def removed(place: Path) -> None:
    """A folder or file is gone; nothing happens where there is none."""
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _hidden(out: Path, kind: str) -> Path:
    return out.parent / f".{out.name}.{kind}.part"


def _exchanged(a: Path, b: Path) -> bool:
    """Whether two paths have taken each other's names, in one step: Linux's renameat2, macOS's renamex_np."""
    system = ctypes.CDLL(None)
    if hasattr(system, "renameat2"):
        return bool(system.renameat2(_HERE, os.fsencode(a), _HERE, os.fsencode(b), _EXCHANGE) == 0)
    return hasattr(system, "renamex_np") and bool(system.renamex_np(os.fsencode(a), os.fsencode(b), _EXCHANGE) == 0)
