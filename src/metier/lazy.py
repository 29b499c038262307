"""torch, imported when something of it is first used: that takes a second, which what only moves stored weights can do without.

A module that says `from metier.lazy import torch` names types of torch in annotations only, under TYPE_CHECKING.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

_own = threading.local()


def alone() -> None:
    """What torch does when this thread asks for it, it does with one thread; threads that work side by side say so."""
    _own.alone = True


if TYPE_CHECKING:
    import torch as torch
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            module = importlib.import_module("torch")
            if getattr(_own, "alone", False):
                _own.alone = False
                module.set_num_threads(1)  # this thread's own setting
            return getattr(module, name)

    torch = _Torch()
