"""Peak memory of a stretch of work: the device's where there is one, else this process's resident set."""

from __future__ import annotations

from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def reset_peak() -> None:
    """Start a new stretch."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        try:
            _CLEAR.write_text("5")
        except OSError:  # not permitted in some sandboxes: the peak is then that of the process's whole life
            return


def peak_bytes() -> int | None:
    """Peak bytes since `reset_peak`, or None where the system does not tell."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
