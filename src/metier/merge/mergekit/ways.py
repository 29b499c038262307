"""Ways: which merge of ours a recipe's method is for one tensor, with what factors; what theirs adds to ours is put in here.

Deviations: draws of dare and della are ours, and are divided by their density where mergekit restores each tensor's sum of
magnitudes; a tie of signs gives 0; see the page of each merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metier.delta import Merge, identity
from metier.delta.parts import drop, mean, scale, total
from metier.delta.transform import At
from metier.errors import UserError
from metier.merge._work import function_of
from metier.merge.mergekit.recipe import METHODS, Recipe, Slice
from metier.method import find

if TYPE_CHECKING:
    from torch import Tensor

DEFAULTS = {"density": 1.0, "epsilon": 0.15, "gamma": 0.01, "lambda": 1.0}
ELECTING = ("ties", "dare_ties", "della", "breadcrumbs_ties")
NORMALIZED = ("ties", "della")  # divided by the sum of weights unless the recipe says otherwise
OWN = ("density", "epsilon", "gamma")  # what each model may have a value of its own for
SUMS = ("task_arithmetic", "ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties")


@dataclass(frozen=True, slots=True)
class Way:
    """The settings that hold for a tensor; tensors of one way are merged together.

    models: what is merged, in order;  own: for each of them its values of OWN;  shared: (name, value) of all else
    """

    method: str
    models: tuple[str, ...]
    own: tuple[tuple[tuple[str, float], ...], ...]
    shared: tuple[tuple[str, Any], ...]
    coefs: tuple[float, ...]

    def merges(self) -> list[Merge]:
        """The merge for each model's own values; they differ in `each` alone. Raises UserError for values that cannot be."""
        return [_merge(self.method, dict(self.shared) | dict(own)) for own in self.own]


def way(recipe: Recipe, part: Slice, models: Sequence[str], tensor: str, t: float) -> Way:
    """How a tensor's models are merged. t: where its layer is in the slice, in [0, 1]."""
    method = recipe.method

    def value(name: str, default: Any = None, model: str | None = None) -> Any:
        return recipe.value(name, part, model, tensor, t, default)

    coefs = [float(value("weight", 1.0, m)) for m in models]
    own = tuple(_own(method, {n: float(value(n, DEFAULTS[n], m)) for n in OWN}) for m in models)
    shared: dict[str, Any] = {}
    if method in SUMS:
        shared = {"lambda": float(value("lambda", 1.0)), "rescale": bool(value("rescale", True))}
        if method in ELECTING:
            shared["normalize"] = bool(value("normalize", method in NORMALIZED))
        elif value("normalize", False):
            coefs = _shares(coefs)
    elif method == "linear":
        shared = {"normalize": bool(value("normalize", True))}
    elif method in ("slerp", "nearswap"):
        if (at := value("t")) is None:
            raise UserError(f"{method}: needs the parameter t, for '{tensor}' there is none.")
        shared = {"t": float(at)}
    elif method in ("nuslerp", "multislerp"):
        shared = {"of": "changes" if recipe.base else "weights"}
        if method == "nuslerp" and not value("nuslerp_flatten", True):
            shared["per"] = "column" if value("nuslerp_row_wise", False) else "row"
    elif method == "karcher":
        shared = {"steps": int(value("max_iter", 10)), "tolerance": float(value("tol", 1e-5))}
    elif method == "model_stock":
        shared = {"per": "row" if value("filter_wise", False) else "tensor"}
    elif method == "sce":
        shared = {"density": float(value("select_topk", 1.0))}
    elif method in ("ram", "ramplus_tl"):
        plus = {"boost": float(value("r", 0.1)), "limit": float(value("alpha", 0.2))} if method == "ramplus_tl" else {}
        shared = {"epsilon": float(value("epsilon", 1e-5))} | plus
    elif method == "passthrough":
        shared = {"scale": float(value("scale", 1.0, models[0]))}
    weighted = method in (*SUMS, "linear", "nuslerp", "multislerp")
    return Way(method, tuple(models), own, tuple(shared.items()), tuple(coefs) if weighted else (1.0,) * len(models))


def elect_sign_sum(at: At, stack: Tensor, coefs: Sequence[float], plan: Any = None) -> Tensor:
    """(k, *S) -> S: the sum of coef * change over those whose sign is that of the whole sum; 0 where there are none."""
    for change, coef in zip(stack, coefs, strict=True):
        change.mul_(coef)
    sign = stack.sum(0).sign()
    return (stack * sign).clamp_(min=0).sum(0).mul_(sign)


def _own(method: str, values: dict[str, float]) -> tuple[tuple[str, float], ...]:
    wanted = {
        "ties": ("density",), "dare_linear": ("density",), "dare_ties": ("density",), "della": ("density", "epsilon"),
        "della_linear": ("density", "epsilon"), "breadcrumbs": ("density", "gamma"), "breadcrumbs_ties": ("density", "gamma"),
    }.get(method, ())  # fmt: skip
    if "gamma" in wanted:
        values["gamma"] = min(values["gamma"], max(0.0, 1 - values["density"]))  # mergekit keeps the density and drops fewer
    if "epsilon" in wanted and values["density"] == 1:
        values["epsilon"] = 0.0
    return tuple((n, values[n]) for n in wanted)


def _merge(method: str, settings: dict[str, Any]) -> Merge:
    if method == "linear":
        return Merge(identity(), mean if settings["normalize"] else total, identity(), weights="full")
    if method == "passthrough":
        return Merge(identity(), total, scale(settings["scale"]), weights="full")
    factor, normalize, rescale = settings.pop("lambda", None), settings.pop("normalize", None), settings.pop("rescale", True)
    merge: Merge = function_of(find(METHODS[method]))(**settings, **({} if factor is None else {"scale": factor}))
    if normalize is False:
        merge = merge._replace(combine=elect_sign_sum)
    if not rescale and method.startswith("dare"):
        merge = merge._replace(each=drop(settings["density"], rescale=False))
    return merge


def _shares(coefs: Sequence[float]) -> list[float]:
    whole = sum(coefs)
    return [c / whole for c in coefs] if abs(whole) >= 1e-8 else list(coefs)
