"""What is written is whole or not there, also when the writer is killed; what cannot be written is told in one sentence."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from metier import atomic
from metier.errors import UserError

WRITER = """
import sys
from pathlib import Path
from metier import atomic
target, n = Path(sys.argv[1]), 0
while True:
    n += 1
    if sys.argv[2] == "folder":
        with atomic.folder(target) as draft:
            for name in "abc":
                (draft / name).write_text(str(n) * 1000)
    else:
        atomic.write_text(target, str(n) * 100_000)
    if n == 1:
        print("ready", flush=True)
"""


def content(target: Path) -> list[str]:
    return [p.read_text() for p in sorted(target.iterdir())] if target.is_dir() else [target.read_text()]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_killed_in_the_middle_leaves_old_or_new(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "result"
    for round_ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(target), kind], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.002 * round_)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = content(target)
        assert len(found) == (3 if kind == "folder" else 1)
        assert len(set(found)) == 1
        size = 1000 if kind == "folder" else 100_000
        assert len(found[0]) % size == 0
        assert found[0] == found[0][: len(found[0]) // size] * size
    if kind == "folder":
        with atomic.folder(target) as draft:
            (draft / "a").write_text("last")
    else:
        atomic.write_text(target, "last")
    assert content(target) == ["last"]
    assert [p.name for p in tmp_path.iterdir()] == ["result"], "what killed writers left is removed by the next"


def test_drafts_of_the_living_and_of_others_stay(tmp_path: Path) -> None:
    kept = [
        tmp_path / f".result.{atomic._HERE}-{os.getppid()}.abc.part",
        tmp_path / ".result.elsewhere-1.abc.part",
        tmp_path / ".result.json",
    ]
    for path in kept:
        path.mkdir()
    atomic.write_text(tmp_path / "result", "x")
    assert all(p.exists() for p in kept)


def test_an_error_in_the_block_leaves_the_old(tmp_path: Path) -> None:
    target = tmp_path / "result"
    with atomic.folder(target) as draft:
        (draft / "a").write_text("old")

    def fail() -> None:
        with atomic.folder(target) as draft:
            (draft / "a").write_text("new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert content(target) == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("swap", [True, False])
def test_an_old_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool) -> None:
    if not swap:
        monkeypatch.setattr(atomic, "_exchanged", lambda draft, target: False)
    for names in ("ab", "c"):
        with atomic.folder(tmp_path / "ä ö") as draft:
            for name in names:
                (draft / name).write_text(name)
    assert content(tmp_path / "ä ö") == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["ä ö"]


def test_files_can_be_read_by_others(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a" / "b.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a" / "b.json").read_text(encoding="utf-8") == '{\n "a": "é",\n "b": 1\n}\n'
    assert (tmp_path / "a" / "b.json").stat().st_mode & 0o777 == 0o644
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "c.json", float("nan"))
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")],
)
def test_what_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    for name in ("mkdtemp", "mkstemp", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, fail)
    with pytest.raises(UserError, match=message), atomic.folder(tmp_path / "x"):
        pass
    with pytest.raises(UserError, match=message):
        atomic.write_text(tmp_path / "x", "text")
    with pytest.raises(UserError, match=message):
        atomic.writable(tmp_path / "x")


@pytest.mark.slow
def test_a_disk_that_fills_up_while_a_change_is_saved(tmp_path: Path) -> None:
    code = f"""
import resource, signal, torch
from pathlib import Path
from metier.delta import Delta, Dense
from metier.errors import UserError
from metier.model import WeightChange
from metier.model.change import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save(WeightChange(Delta({{"w": Dense(torch.zeros(100_000))}})), Path({str(tmp_path)!r}) / "change", base="")
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "larger than allowed" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_full_device() -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(UserError, match="the disk is full"), atomic._explained(Path("x")):
        full.write_text("x")


def test_places_that_cannot_hold_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        atomic.writable(tmp_path / "file" / "out")
    with pytest.raises(UserError, match="a file is where a folder is needed"), atomic.folder(tmp_path / "file" / "out"):
        pass
    with pytest.raises(UserError, match="about 1000000000.0 GB needed"):
        atomic.writable(tmp_path / "new" / "deep", need_bytes=10**18)
    atomic.writable(tmp_path / "new" / "deep", need_bytes=10)
    assert not (tmp_path / "new").exists()
