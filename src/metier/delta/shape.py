"""Shape: the sizes of a tensor's axes. It is what torch.Size is, and can be had without torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Size as Shape
else:

    class Shape(tuple):
        """Sizes, with their product."""

        def numel(self) -> int:
            """How many entries there are."""
            return math.prod(self)

        def __getitem__(self, i: Any) -> Any:
            found = super().__getitem__(i)
            return Shape(found) if isinstance(i, slice) else found


__all__ = ["Shape"]
