"""Verdict: what a result should hold, what verification said of it, kept beside it; and whether a change changes anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metier import atomic
from metier.delta import Checkpoint, Delta, Lazy, native
from metier.delta.entry import SLICE, Entry, is_plain
from metier.delta.transform import slices
from metier.errors import Failed

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-3  # of the outputs' spread: two ways to form the same float32 sum differ by less
GIBBERISH = 4.0  # times the base's perplexity
CARD = "metier.json"


@dataclass(frozen=True, slots=True)
class Verdict:
    """gap: the largest difference of outputs; spread: the outputs' standard deviation; perplexities of result and base (encoders: none).

    finite: whether all outputs of the result are numbers;  of: what the change was made to, in words;  remedy: what helps against gibberish
    """

    gap: float
    spread: float
    perplexity: float | None
    base_perplexity: float | None
    finite: bool = True
    of: str = "the base"
    remedy: str = "Lower scale or coef."

    @property
    def equal(self) -> bool:
        """Whether the outputs are numbers and the gap is what rounding explains."""
        return self.finite and self.gap <= TOLERANCE * self.spread

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know of the result."""
        now, before = self.perplexity, self.base_perplexity
        if not self.finite:
            return (f"the result computes values that are not numbers. {self.remedy}".strip(),)
        if self.spread == 0:
            return (f"every output is the same number: the change is too large, or the model is damaged. {self.remedy}".strip(),)
        if now is None or before is None or now <= GIBBERISH * before:
            return ()
        return (f"perplexity on plain English is {now:.4g}, {self.of}'s {before:.4g}: it may write gibberish. {self.remedy}".strip(),)

    def facts(self) -> dict[str, Any]:
        """For JSON, which has no infinite numbers: null."""
        kept = {"gap": self.gap, "spread": self.spread, "perplexity": self.perplexity, "base_perplexity": self.base_perplexity}
        numbers = {k: v if v is not None and math.isfinite(v) else None for k, v in kept.items()}
        return numbers | {"equal": self.equal, "warnings": list(self.warnings)}

    def text(self) -> str:
        """One line for a person."""
        words = f"verified   loaded again: outputs differ by at most {self.gap:.2g} from what they should be (their spread is {self.spread:.2g})"
        if self.perplexity is not None and self.base_perplexity is not None:
            words += f"; perplexity {self.perplexity:.4g}, {self.of}'s {self.base_perplexity:.4g}"
        return words


def note(out: Path, verdict: Verdict | None, **facts: Any) -> None:
    """Put the verdict and other facts in the output's card, metier.json. Raises Failed where the result is not what it should be."""
    place = out / CARD
    card = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    atomic.write_json(place, card | facts | {"verified": verdict.facts() if verdict else None})
    if verdict is not None and verdict.finite and not verdict.equal:
        raise Failed(
            f"{out}: what was written does not say what it should: outputs differ by {verdict.gap:.3g}, their spread is {verdict.spread:.3g}. "
            "Do not use it; please report this with the command."
        )


def store(out: Path, verdict: Verdict | None, **facts: Any) -> None:
    """As `note`; raises Failed also where outputs are no numbers."""
    note(out, verdict, **facts)
    if verdict is not None and not verdict.finite:
        raise Failed(
            f"{out}: the result computes values that are not numbers: the change is too large for the model. Lower the scale or the "
            "coefficients, and look at the inputs with metier delta show. Do not use it."
        )


def composed(base: Mapping[str, Tensor], delta: Delta) -> Mapping[str, Tensor]:
    """base + delta, each tensor formed when it is read."""
    return Lazy((*base, *delta), lambda name: delta.new_value(name, base.get(name)) if name in delta.entries else base[name])


def replaced(base: Checkpoint, weights: Delta) -> Mapping[str, Tensor]:
    """The base with whole weights in place of its own, rounded to its types, each tensor formed when it is read."""
    return Lazy(base, lambda name: weights[name].dense().to(base.dtype(name)) if name in weights.entries else base[name])


def changes(weights: Mapping[str, Tensor], delta: Delta) -> bool:
    """Whether base + delta differs from the base in any stored bit; small tensors first, read no further than the first difference."""
    for name in sorted(delta, key=lambda n: delta.shape(n).numel()):
        if name not in weights:
            return True
        entry = delta[name]
        words = weights.mapped(name).words if isinstance(weights, Checkpoint) and is_plain(entry) else None
        if _changed(weights[name], entry) if words is None else _changed_words(words, entry):
            return True
    return False


def _changed(before: Tensor, entry: Entry) -> bool:
    flat = before.reshape(-1)
    for start, values in slices(entry):
        old = flat[start : start + len(values)]
        if bool(((old.float() + values).to(old.dtype) != old).any()):
            return True
    return False


def _changed_words(before: NDArray[np.uint16], entry: Any) -> bool:
    """As `_changed`, of bits of bfloat16 and a plain entry."""
    for start in range(0, len(before), SLICE):
        old = before[start : start + SLICE]
        change, new = np.empty(len(old), np.float32), np.empty_like(old)
        native.added(old, entry.part(start, start + len(old), change), new)
        if not np.array_equal(new, old):
            return True
    return False
