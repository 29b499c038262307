"""Sandbox: runs Python and SQL that a model wrote, in a process of their own with limits of time, memory, files and network.

Layers, of which `Ran.layers` names those that held:
  process           own session, killed with its whole group at the wall-clock limit; empty environment; output capped
  limits            CPU seconds, address space, file size, open files, no core (setrlimit); no child processes or threads
  system call filter  Linux (seccomp): fork, exec, threads, sockets, signals and every change of a file are refused, for root too
  audit hook        Python only: no file outside the standard library and the empty working folder, no processes, sockets,
                    ctypes, signals to others; always on, so that there is no network where the other layers are refused
  network namespace Linux where `unshare` is permitted (as root, or with user namespaces): there is no network device
  user nobody       where started as root, so that limits on processes count and nothing of ours can be written
SQL runs in the same process cage, on an in-memory database whose authorizer lets SELECT through and nothing else.

Limits: code shares its process with the tests it must pass, so a program that sets out to fool its tests (an object equal
to everything) can; and an audit hook is no wall against memory corruption, which is what the other layers are for.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metier import check
from metier.errors import UserError

SCRIPT = Path(__file__).with_name("sandboxed.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """seconds of wall clock (and CPU, plus one); memory_mb of address space; file_mb per written file (0: no writing);
    output_chars of standard output and error together; rows of one SQL result."""

    seconds: float = 5.0
    memory_mb: int = 512
    file_mb: int = 0
    output_chars: int = 10_000
    rows: int = 10_000

    def __post_init__(self) -> None:
        check.number("seconds", self.seconds, above=0)
        check.integer("memory_mb", self.memory_mb, low=64)
        check.integer("file_mb", self.file_mb, low=0)
        check.integer("output_chars", self.output_chars, low=0)
        check.integer("rows", self.rows, low=1)


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a run. reason: '' where ok, else time, memory, output, error or crash; `detail` tells more."""

    ok: bool
    reason: str
    detail: str
    output: str
    seconds: float
    layers: tuple[str, ...] = ()
    results: tuple[Mapping[str, Any], ...] = ()


def run_python(program: str, *, limits: Limits | None = None) -> Ran:
    """Runs a program with the standard library; ok if it reaches its end without an exception or an exit."""
    return _run({"language": "python", "program": program}, limits or Limits())


def run_sql(database: str | Sequence[Mapping[str, Any]], queries: Sequence[str], *, limits: Limits | None = None) -> Ran:
    """Runs queries, one after the other, on a fresh in-memory database.

    `database` is a script of CREATE and INSERT, or tables {name, columns: [{name, type, pk}], rows}. `Ran.results` has
    {columns, rows} or {error} for each query. Raises `UserError` if the database itself does not load.
    """
    limits = limits or Limits()
    setup = [database] if isinstance(database, str) else [s for table in database for s in _statements(table)]
    each = max(limits.seconds / (len(queries) + 1), 0.05)
    ran = _run({"language": "sql", "setup": setup, "queries": list(queries), "seconds_each": each, "rows": limits.rows}, limits)
    if not ran.ok and ran.reason == "error":
        raise UserError(f"the database of an SQL task does not load: {ran.detail}. Correct its CREATE and INSERT statements.")
    return ran


def _statements(table: Mapping[str, Any]) -> list[Any]:
    def quoted(name: str) -> str:
        return '"' + str(name).replace('"', '""') + '"'

    columns = table["columns"]
    keys = [quoted(c["name"]) for c in columns if c.get("pk")]
    parts = [f"{quoted(c['name'])} {c.get('type') or ''}".strip() for c in columns] + ([f"PRIMARY KEY ({', '.join(keys)})"] if keys else [])
    insert = f"INSERT INTO {quoted(table['name'])} VALUES ({', '.join('?' * len(columns))})"
    return [f"CREATE TABLE {quoted(table['name'])} ({', '.join(parts)})", *([insert, list(row)] for row in table["rows"])]


def _run(job: dict[str, Any], limits: Limits) -> Ran:
    if os.name != "posix":
        raise UserError("the sandbox needs Linux or macOS: running code that a model wrote without it is not safe.")
    key = secrets.token_hex(16)
    reading, writing = os.pipe()
    job = {**job, "key": key, "channel": writing, "seconds": limits.seconds, "memory_mb": limits.memory_mb, "file_mb": limits.file_mb}
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="metier-sandbox-", ignore_cleanup_errors=True) as folder, os.fdopen(reading, "rb") as channel:
        os.chmod(folder, 0o777 if limits.file_mb else 0o755)  # the program may run as nobody
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-s", "-S", "-B", str(SCRIPT)],  # -I would also drop the fixed hash seed
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HOME": folder},
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            cause, output, told = _converse(child, channel, json.dumps(job).encode(), limits, start + limits.seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return _outcome(cause, output, told, key, child.returncode, time.monotonic() - start)


def _converse(child: subprocess.Popen[bytes], channel: Any, job: bytes, limits: Limits, end: float) -> tuple[str, str, bytes]:
    """Feeds the job and reads output and result until all is said; returns (why it was cut off or '', output, result)."""
    if child.stdin is None or child.stdout is None or child.stderr is None:
        raise RuntimeError("the sandbox process has no pipes")
    texts: dict[Any, bytearray] = {child.stdout: bytearray(), child.stderr: bytearray(), channel: bytearray()}
    rest, cause = memoryview(job), ""
    os.set_blocking(child.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector, child.stdin, child.stdout, child.stderr:
        selector.register(child.stdin, selectors.EVENT_WRITE)
        for stream in texts:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and not cause:
            ready = selector.select(max(0.0, end - time.monotonic()))
            for entry, _ in ready:
                if entry.fileobj is child.stdin:
                    rest = _feed(child.stdin.fileno(), rest)
                    if not rest:
                        selector.unregister(child.stdin)
                        child.stdin.close()
                    continue
                data = os.read(entry.fd, 65536)
                texts[entry.fileobj] += data
                if not data:
                    selector.unregister(entry.fileobj)
            if len(texts[child.stdout]) + len(texts[child.stderr]) > limits.output_chars:
                cause = "output"
            elif time.monotonic() > end:
                cause = "time"
            elif len(texts[channel]) > 2**26:
                cause = "output"
        output = (bytes(texts[child.stdout]) + bytes(texts[child.stderr]))[: limits.output_chars].decode("utf-8", "replace")
    return cause, output, bytes(texts[channel])


def _feed(descriptor: int, rest: memoryview) -> memoryview:
    try:
        return rest[os.write(descriptor, rest) :]
    except BrokenPipeError:  # the process died early; its exit status tells
        return rest[:0]


def _outcome(cause: str, output: str, told: bytes, key: str, status: int, seconds: float) -> Ran:
    if cause:
        return Ran(False, cause, f"stopped: over the limit of {cause}", output, seconds)
    try:
        result = json.loads(told)
    except ValueError:
        result = {}
    if not isinstance(result, dict) or result.get("key") != key:
        cpu = status == -signal.SIGXCPU
        return Ran(False, "time" if cpu else "crash", f"ended without a result (status {status})", output, seconds)
    return Ran(
        bool(result["ok"]), result["reason"], result["detail"], output, seconds, tuple(result["layers"]), tuple(result.get("results", ()))
    )
