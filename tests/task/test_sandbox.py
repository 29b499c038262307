"""Attacks on the sandbox: none gets out, none lasts, and each is told by its reason."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from metier.errors import UserError
from metier.task.sandbox import Limits, run_python, run_sql

SHORT = Limits(seconds=0.5)
LONG = Limits(seconds=20.0)  # for what ends by itself, on a busy machine


def test_honest_code_runs_to_its_end() -> None:
    ran = run_python("import collections, re, heapq, datetime, asyncio, typing\nprint('done')\n", limits=LONG)
    assert (ran.ok, ran.reason, ran.output) == (True, "", "done\n")
    assert {"limits", "audit hook"} <= set(ran.layers)


def test_a_hash_seed_is_fixed() -> None:
    outputs = {run_python("print(hash('a'), list({'x', 'y', 'z'}))", limits=LONG).output for _ in range(3)}
    assert len(outputs) == 1


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(60)", "import signal\nsignal.signal(14, lambda *a: None)\nwhile 1: pass"]
)
def test_endless_code_is_stopped(code: str) -> None:
    start = time.monotonic()
    assert run_python(code, limits=SHORT).reason == "time"
    assert time.monotonic() - start < 5


def test_a_memory_bomb_is_stopped() -> None:
    ran = run_python("x = bytearray(2 * 10**9)", limits=LONG)
    assert (ran.ok, ran.reason) == (False, "memory")


@pytest.mark.parametrize("code", ["while True: print('x' * 10000)", "import sys\nwhile True: sys.stderr.write('x' * 10000)"])
def test_endless_output_is_stopped(code: str) -> None:
    ran = run_python(code, limits=Limits(seconds=20.0, output_chars=5000))
    assert ran.reason == "output"
    assert len(ran.output) <= 5000


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True: os.fork()",
        "import posix\nposix.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import _posixsubprocess as p, os\nr, w = os.pipe()\n"
        "pid = p.fork_exec([b'/bin/true'],[b'/bin/true'],True,(),None,None,-1,-1,-1,-1,-1,-1,r,w,False,False,-1,None,None,None,-1,None,False)\n"
        "print('forked', pid)",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.kill(os.getppid(), 9)",
        "import ctypes\nctypes.CDLL(None).fork()",
    ],
)
def test_no_processes(code: str) -> None:
    ran = run_python(code, limits=LONG)
    assert (ran.ok, ran.reason) == (False, "error"), ran


@pytest.mark.parametrize("inside", [0, 1])
def test_no_files_outside_are_written_changed_or_read(tmp_path: Path, inside: int) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    os.chmod(tmp_path, 0o777)
    attacks = [
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(secret)!r}, 'a').write('x')",
        f"import os\nos.remove({str(secret)!r})",
        f"import os\nos.rename({str(secret)!r}, {str(secret) + '2'!r})",
        f"import os\nos.mkdir({str(tmp_path / 'new')!r})",
        f"import os\nos.symlink({str(secret)!r}, 'link')",
        f"import os\nos.chdir({str(tmp_path)!r})\nopen('new', 'w')",
        f"import os\nos.open({str(tmp_path / 'new')!r}, os.O_CREAT | os.O_WRONLY)",
        f"import os\nd = os.open({str(tmp_path)!r}, os.O_RDONLY)\nos.open('new', os.O_CREAT | os.O_WRONLY, dir_fd=d)",
        "import shutil\nshutil.rmtree('/tmp')",
        f"print(open({str(secret)!r}).read())",
        f"class P(str):\n    def __contains__(s, x): return False\n    def __eq__(s, o): return True\n    def __hash__(s): return 1\nopen(P({str(secret)!r}))",
        f"import io\nclass P:\n    def __fspath__(s): return {str(secret)!r}\n    def __eq__(s, o): return True\nio.FileIO(P())",
    ]
    for attack in attacks:
        ran = run_python(attack, limits=Limits(seconds=20.0, file_mb=inside))
        assert not ran.ok, attack
        assert "secret\n" not in ran.output, attack
    assert [p.name for p in tmp_path.iterdir()] == ["secret.txt"]
    assert secret.read_text() == "secret"


def test_files_in_the_working_folder_only_where_allowed_and_only_small() -> None:
    code = "open('a.txt', 'w').write('hello')\nassert open('a.txt').read() == 'hello'"
    assert not run_python(code, limits=LONG).ok
    assert run_python(code, limits=Limits(seconds=20.0, file_mb=1)).ok
    ran = run_python("with open('a', 'wb') as f:\n    f.write(b'x' * 2**22)\n    f.flush()", limits=Limits(seconds=20.0, file_mb=1))
    assert "File too large" in ran.detail


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')",
        "import _socket\n_socket.socket()",
    ],
)
def test_no_network(code: str) -> None:
    ran = run_python(code, limits=LONG)
    assert not ran.ok
    assert "refuses" in ran.detail


def test_nothing_of_our_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    ran = run_python("import os\nassert 'SECRET_TOKEN' not in os.environ\nassert os.listdir('.') == []", limits=LONG)
    assert ran.ok, ran.detail


@pytest.mark.parametrize(
    ("code", "reason"),
    [("import sys\nsys.exit(0)", "error"), ("import os\nos._exit(0)", "crash"), ("raise KeyboardInterrupt", "error"), ("def f(:", "error"),
     ("def f(): f()\nf()", "error"), ("import os\nos.abort()", "crash")],
)  # fmt: skip
def test_ending_early_is_no_success(code: str, reason: str) -> None:
    ran = run_python(code, limits=LONG)
    assert (ran.ok, ran.reason) == (False, reason)


def test_sql_reads_and_nothing_else(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    counting = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
    attacks = [
        "DROP TABLE a",
        "INSERT INTO a VALUES (3)",
        f"ATTACH '{tmp_path}/x.db' AS x",
        f"VACUUM INTO '{tmp_path}/x.db'",
        "PRAGMA writable_schema = 1",
        "SELECT load_extension('x')",
        "SELECT zeroblob(100000000)",
        "SELECT 1; SELECT 2",
        counting + "SELECT n FROM c",
        counting + "SELECT count(*) FROM c",
    ]
    ran = run_sql("CREATE TABLE a(x INT); INSERT INTO a VALUES (1), (2);", [*attacks, "SELECT x FROM a"], limits=Limits(seconds=6.0))
    assert all("error" in result for result in ran.results[:-1]), ran.results
    assert ran.results[-1] == {"columns": ["x"], "rows": [[1], [2]]}
    assert list(tmp_path.iterdir()) == []


def test_limits_are_checked() -> None:
    with pytest.raises(UserError, match="seconds must be above 0"):
        Limits(seconds=0)
    with pytest.raises(UserError, match="memory_mb must be at least 64"):
        Limits(memory_mb=1)
