"""torch, imported when something of it is first used: that takes a second, which what only moves stored weights can do without.

A module that says `from metier.lazy import torch` names types of torch in annotations only, under TYPE_CHECKING.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("torch"), name)

    torch = _Torch()
