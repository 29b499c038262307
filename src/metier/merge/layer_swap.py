"""Layer swap: the lowest and highest layers come from one expert, which knows the language, the middle from another, which knows the task.

Paper:       Bandarkar et al. 2024, arXiv:2410.01335, section 4 and figure 1.
Formula:     W = W0 + a_l (W1 - W0) + (1 - a_l)(W2 - W0); a_l = 1 in the lowest and highest layers, 0 in the middle,
             `blend` in the zones between. W1: the first expert, of the language; W2: the second, of the task.
Shapes:      both experts' tensor S; result S.
Units:       bottom, top, transition, fractions of the layers (rounded to whole ones); blend, a fraction of the first expert.
Randomness:  none.
Cost:        one read of base and experts, one write; a slice of each in memory.
Deviations:  the paper counts layers, which fits one size of model; here they are fractions. A zone is averaged by `blend`, 1/2 as in the
             paper's simplest form. Tensors of no layer (embeddings, last norm, output) come from the first expert. The number of layers
             is one more than the highest that an expert changes, unless `layers` says it.
Errors:      UserError where the parts exceed the whole, there are not exactly two experts, or their deltas carry keys of their own.

    >>> from metier.merge.layer_swap import layer_swap
    >>> layer_swap(bottom=0.25, top=0.125).elementwise
    True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from torch import Tensor

from metier import check
from metier.delta.delta import Delta
from metier.delta.parts import total
from metier.delta.parts.scale import depth_of
from metier.delta.transform import At, Merge, elementwise, identity
from metier.errors import UserError
from metier.merge._needs import exactly
from metier.method import About

ABOUT = About(place="weights", papers=(108,), experts=(2, 2), search={"bottom": (0.125, 0.25, 0.375)})


def layer_swap(
    *,
    bottom: Annotated[float, "Fraction of the layers, from below, that come from the first expert."] = 0.25,
    top: Annotated[float, "Fraction of the layers, from above, that come from the first expert."] = 0.125,
    transition: Annotated[float, "Fraction of the layers, beside each of these parts, in which both experts are averaged."] = 0.125,
    blend: Annotated[float, "Share of the first expert where both are averaged."] = 0.5,
    layers: Annotated[int | None, "How many layers the model has; none: as many as the experts show."] = None,
) -> Merge:
    """Layers of two experts, put together."""
    for name, value in (("bottom", bottom), ("top", top), ("transition", transition), ("blend", blend)):
        check.number(f"layer_swap: {name}", value, low=0, high=1)
    if layers is not None:
        check.integer("layer_swap: layers", layers, low=1)
    if bottom + top + 2 * transition > 1 + 1e-9:
        raise UserError(
            f"layer_swap: bottom + top + 2 transition must be at most 1; got {bottom} + {top} + 2 * {transition}. Lower one of them."
        )

    def share(depth: int, count: int) -> float:
        """How much of a layer comes from the first expert."""
        low, high, zone = round(bottom * count), count - round(top * count), round(transition * count)
        if depth < low or depth >= high:
            return 1.0
        return blend if depth < low + zone or depth >= high - zone else 0.0

    def prepare(delta: Delta) -> dict[str, float]:
        depths = {n: depth_of(n) for n in delta}
        count = layers or max((d + 1 for d in depths.values() if d is not None), default=1)
        first = {n: 1.0 if d is None else share(d, count) for n, d in depths.items()}
        if delta.key not in ("0", "1"):
            raise UserError("layer_swap: takes exactly 2 experts, known by their position. Give two deltas without keys.")
        return first if delta.key == "0" else {n: 1 - s for n, s in first.items()}

    def part(shares: dict[str, float], at: At, values: Tensor) -> Tensor:
        return values.mul_(shares[at.name])

    return Merge(elementwise(prepare, part), _combine, identity())


def _combine(at: At, stack: Tensor, coefs: Sequence[float], plan: Any) -> Tensor:
    return total(at, exactly("layer_swap", stack, 2), coefs)
