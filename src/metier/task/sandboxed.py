"""What runs inside the sandbox: locks its own process down, then runs the code or SQL that it was handed.

Started by `metier.task.sandbox` as a script; imports nothing of metier. Reads one JSON job from standard input and writes
one JSON result to the file descriptor that the job names. Not meant to be imported.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False  # as in typing, whose import would cost a third of the start
if TYPE_CHECKING:
    from typing import Any

CLONE_NEWNET = 0x40000000
NOBODY = 65534
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# machine: (its AUDIT_ARCH, {openat and open: index of their flags}, calls refused). Refused are: new processes and threads,
# exec, sockets, signals to others, tracing, mounting, kernel services, and every change of a file's name, mode or existence.
CALLS = {
    "x86_64": (
        0xC000003E,
        {257: 2, 2: 1},
        "56 57 58 59 322 435 160 302 41 53 62 200 101 310 311 165 166 155 161 272 308 321 298 425 437 248 249 250 169 170 175 313 246 "
        "82 264 316 83 258 84 85 86 265 87 263 88 266 90 91 268 452 92 93 94 260 76 77 133 259 132 235 261 280 188 189 190 285",
    ),
    "aarch64": (
        0xC00000B7,
        {56: 2},
        "220 221 281 435 164 261 198 199 129 130 117 270 271 40 39 41 51 97 268 280 241 425 437 217 218 219 142 161 105 273 104 "
        "38 276 34 33 37 35 36 52 53 452 54 55 45 46 88 5 6 7 47",
    ),
}


def lock(job: dict[str, Any]) -> list[str]:
    """Limits, no network, no privileges; returns the names of the layers that hold."""
    import resource

    layers = ["limits", "audit hook"]
    megabyte = 2**20
    limits = {
        resource.RLIMIT_CPU: int(job["seconds"]) + 1,
        resource.RLIMIT_AS: job["memory_mb"] * megabyte,
        resource.RLIMIT_FSIZE: job["file_mb"] * megabyte,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(name, (value, value))
        except (ValueError, OSError):  # macOS has no RLIMIT_AS
            layers.append(f"no limit {name}")
    if unshare_network():
        layers.append("network namespace")
    if os.getuid() == 0 and readable_by_all(os.__file__):
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        layers.append("user nobody")
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))  # no effect on root, which therefore becomes nobody above
    if filter_calls(job["file_mb"] > 0):
        layers.append("system call filter")
    if job["language"] == "python":
        guard(job["file_mb"] > 0)
    return layers


def filter_calls(may_write: bool) -> bool:
    """Installs a seccomp filter that answers CALLS, and openat for writing, with EPERM; holds for root too. False if refused."""
    import ctypes
    import struct

    machine = os.uname().machine
    if sys.platform != "linux" or machine not in CALLS:
        return False
    arch, opens, refused = CALLS[machine]
    allow, eperm, enosys = (0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x50026)
    load = [(0x20, 0, 0, 4), (0x15, 1, 0, arch), eperm, (0x20, 0, 0, 0), (0x35, 0, 1, 0x40000000), eperm]  # other ABIs: no
    numbers = [int(n) for n in refused.split()]
    program = load + [step for n in numbers for step in ((0x15, 0, 1, n), enosys if n in (435, 437) else eperm)]
    for number, argument in {} if may_write else opens.items():  # type: ignore[union-attr]
        program += [(0x15, 0, 4, number), (0x20, 0, 0, 16 + 8 * argument), (0x45, 0, 1, WRITE_FLAGS), eperm, allow]
    steps = b"".join(struct.pack("HBBI", *step) for step in [*program, allow])
    buffer = ctypes.create_string_buffer(steps, len(steps))
    header = struct.pack("HxxxxxxP", len(steps) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0) == 0


def unshare_network() -> bool:
    """Leaves the network behind, where the system lets us; the audit hook refuses sockets in any case."""
    import ctypes

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        new_user = 0 if os.getuid() == 0 else 0x10000000
        return libc.unshare(CLONE_NEWNET | new_user) == 0
    except (OSError, AttributeError):  # no libc, or no such call: not Linux
        return False


def readable_by_all(path: str) -> bool:
    """Whether any user may read the standard library (else imports would fail after the change of user)."""
    path = os.path.realpath(path)
    while path != "/":
        if not os.stat(path).st_mode & (0o001 if os.path.isdir(path) else 0o004):
            return False
        path = os.path.dirname(path)
    return True


def guard(may_write: bool) -> None:
    """Refuses files outside the standard library and the working folder, processes, sockets, and ways around the refusal.

    Its state lives in this closure alone, and it calls no function that the code could replace.
    """
    readable = (os.path.dirname(os.path.realpath(os.__file__)) + "/", os.path.dirname(os.__file__) + "/", "/usr/share/zoneinfo/")
    devices = ("/dev/null", "/dev/urandom")
    names = (
        "os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile subprocess.Popen pty.spawn "
        "os.kill os.killpg signal.pthread_kill os.chdir os.fchdir os.chmod os.chown os.link os.symlink os.remove os.rename os.rmdir "
        "os.mkdir os.truncate os.utime os.lockf os.setxattr os.removexattr shutil.rmtree shutil.move shutil.chown "
        "_thread.start_new_thread gc.get_objects gc.get_referrers gc.get_referents sys.settrace sys.setprofile "
        "sys._current_frames sys.addaudithook mmap.__new__ cpython.remote_debugger_script"
    ).split()
    refused = dict.fromkeys(names)
    families = (
        "socket.",
        "ctypes.",
        "fcntl.",
        "resource.",
        "syslog.",
        "sqlite3.",
        "webbrowser.",
        "ftplib.",
        "http.",
        "smtplib.",
        "urllib.",
    )
    counted = [0]
    error, is_string, text, number, first_of, exact, decode = (
        PermissionError,
        isinstance,
        str,
        int,
        str.startswith,
        str.__str__,
        bytes.decode,
    )
    write_flags = WRITE_FLAGS

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if is_string(path, number):
                return
            path = decode(path, "utf-8", "replace") if is_string(path, bytes) else path
            path = exact(path) if is_string(path, text) else ""  # a subclass could lie about what it holds
            plain = bool(path) and "/" not in path and "\0" not in path and path not in (".", "..")
            if flags & write_flags or (mode is not None and ("w" in mode or "a" in mode or "+" in mode or "x" in mode)):
                counted[0] += 1
                if may_write and mode is not None and plain and counted[0] <= 64:
                    return
            elif path in devices or (mode is not None and plain) or (first_of(path, readable) and "/../" not in path):
                return
            raise error(f"the sandbox refuses to open {path!r}")
        if event in refused or first_of(event, families):
            raise error(f"the sandbox refuses {event}")

    sys.addaudithook(refuse)


def run_python(job: dict[str, Any]) -> dict[str, Any]:
    """Runs the program; ok if it comes to its end."""
    code = compile(job["program"], "<program>", "exec")
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as stop:
        return {"ok": False, "reason": "error", "detail": f"SystemExit: {stop.code} before the end"}
    return {"ok": True, "reason": "", "detail": ""}


def run_sql(job: dict[str, Any]) -> dict[str, Any]:
    """Runs every query on the database; a result is {columns, rows} or {error}."""
    import sqlite3
    import time

    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in job["setup"]:
        if isinstance(statement, list):
            connection.execute(*statement)
        else:
            connection.executescript(statement)
    allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}

    def permit(action: int, first: str | None, second: str | None, *_: Any) -> int:
        if action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"):
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY

    connection.execute("PRAGMA temp_store = MEMORY")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**20)
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 2**16)
    connection.set_authorizer(permit)
    results: list[dict[str, Any]] = []
    for query in job["queries"]:
        end = time.monotonic() + job["seconds_each"]
        connection.set_progress_handler(lambda end=end: time.monotonic() > end, 10000)  # type: ignore[misc]
        try:
            cursor = connection.execute(query)
            rows = cursor.fetchmany(job["rows"] + 1)
            if len(rows) > job["rows"]:
                results.append({"error": f"more than {job['rows']} rows"})
                continue
            names = [column[0] for column in cursor.description or ()]
            results.append({"columns": names, "rows": [[cell.hex() if isinstance(cell, bytes) else cell for cell in row] for row in rows]})
        except (sqlite3.Error, sqlite3.Warning, MemoryError) as error:
            over = str(error) == "interrupted"
            results.append({"error": f"more than {job['seconds_each']:g} s" if over else f"{type(error).__name__}: {error}"})
    return {"ok": True, "reason": "", "detail": "", "results": results}


def main() -> None:
    """Reads the job, locks, runs, reports."""
    job = json.load(sys.stdin)
    channel = os.fdopen(job["channel"], "w")
    layers = lock(job)
    try:
        result = run_python(job) if job["language"] == "python" else run_sql(job)
    except MemoryError:
        result = {"ok": False, "reason": "memory", "detail": f"MemoryError: over {job['memory_mb']} MB"}
    except BaseException as error:  # the program's own failure, whatever it is, is its result
        result = {"ok": False, "reason": "error", "detail": f"{type(error).__name__}: {error}"[:500]}
    channel.write(json.dumps({**result, "layers": layers, "key": job["key"]}))
    channel.flush()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
