"""Recipe: a YAML file of mergekit's, read strictly; all that is wrong or not supported is named at once.

A parameter may be written at a slice's source, a slice, a model or for all, in this order of precedence; as one value, as a list
(a gradient over the layers of the slice, linear between), or as a list of {filter, value}, where the first filter counts
that occurs in the tensor's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metier.errors import UserError, nearest

METHODS = {  # their name: ours
    "linear": "linear", "task_arithmetic": "task-arithmetic", "slerp": "slerp", "nuslerp": "nuslerp", "multislerp": "multislerp",
    "karcher": "karcher", "ties": "ties", "dare_linear": "dare-linear", "dare_ties": "dare-ties", "della": "della",
    "della_linear": "della-linear", "breadcrumbs": "breadcrumbs", "breadcrumbs_ties": "breadcrumbs-ties", "model_stock": "model-stock",
    "sce": "sce", "ram": "ram", "ramplus_tl": "ram", "nearswap": "nearswap", "arcee_fusion": "arcee-fusion", "passthrough": "passthrough",
}  # fmt: skip
TASK = ("weight", "lambda", "normalize", "int8_mask")
PARAMETERS = {
    "linear": ("weight", "normalize"), "task_arithmetic": TASK, "slerp": ("t",), "nuslerp": ("weight", "nuslerp_flatten", "nuslerp_row_wise"),
    "multislerp": ("weight",), "karcher": ("max_iter", "tol"), "ties": ("density", *TASK), "dare_linear": ("density", "rescale", *TASK),
    "dare_ties": ("density", "rescale", *TASK), "della": ("density", "epsilon", *TASK), "della_linear": ("density", "epsilon", *TASK),
    "breadcrumbs": ("density", "gamma", *TASK), "breadcrumbs_ties": ("density", "gamma", *TASK), "model_stock": ("filter_wise",),
    "sce": ("select_topk", "int8_mask"), "ram": ("epsilon",), "ramplus_tl": ("r", "alpha", "epsilon"),
    "nearswap": ("t",), "arcee_fusion": (), "passthrough": ("scale",),
}  # fmt: skip
ON_CHANGES = (
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "model_stock",
    "sce",
    "ram",
    "ramplus_tl",
)
NEED_BASE = (*ON_CHANGES, "slerp", "nearswap", "arcee_fusion")
DTYPES = ("float32", "float16", "bfloat16")
TOP = (
    "merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "tokenizer_source", "tokenizer", "name",
)  # fmt: skip

Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A model's part in a slice. layers: [first, last) of the model's own layers; None: all."""

    model: str
    layers: tuple[int, int] | None = None
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers of the result, in order: as many as each source gives."""

    sources: tuple[Source, ...]
    parameters: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a file asks for. tokenizer: '' (the base's files), 'base', 'union', or a model."""

    method: str
    slices: tuple[Slice, ...]
    base: str | None
    parameters: Parameters
    dtype: str | None
    tokenizer: str = ""
    multiple: int | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """Every model named, the base first."""
        named = [s.model for part in self.slices for s in part.sources]
        return tuple(dict.fromkeys(([self.base] if self.base else []) + named))

    @property
    def by_layers(self) -> bool:
        """Whether layers are taken by their numbers."""
        return any(s.layers for part in self.slices for s in part.sources)

    def value(self, name: str, part: Slice, model: str | None, tensor: str, t: float, default: Any = None) -> Any:
        """A parameter as it holds for a tensor: of the model's source, else of the slice, else of all."""
        places = [s.parameters for s in part.sources if s.model == model] + [part.parameters, self.parameters]
        for place in places:
            if name in place and (found := evaluated(place[name], tensor, t)) is not None:
                return found
        return default

    def unmatched(self, tensors: Iterable[str]) -> list[str]:
        """The filters that occur in no tensor's name, each as 'parameter: filter'; mergekit passes over them."""
        names = list(tensors)
        tables = [self.parameters, *(p.parameters for p in self.slices), *(s.parameters for p in self.slices for s in p.sources)]
        rows = [(name, row) for table in tables for name, said in table.items() for row in (said if isinstance(said, list) else [said])]
        filters = [(name, str(row["filter"])) for name, row in rows if isinstance(row, dict) and row.get("filter") not in (None, "*")]
        return list(dict.fromkeys(f"{name}: {f}" for name, f in filters if not any(f in n for n in names)))


def evaluated(setting: Any, tensor: str, t: float) -> Any:
    """A parameter's value at `t` in [0, 1] of the slice's layers; None where no filter fits."""
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if setting and isinstance(setting[0], dict):
        for row in setting:
            if row.get("filter") in (None, "*") or row["filter"] in tensor:
                return evaluated(row["value"], tensor, t)
        return None
    at = t * (len(setting) - 1)
    low = int(at)
    high = min(low + 1, len(setting) - 1)
    return setting[low] + (at - low) * (setting[high] - setting[low])


def read(place: Path) -> Recipe:
    """The recipe of a file. Raises UserError naming everything that is wrong with it or not supported here."""
    try:
        found = yaml.safe_load(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{place}: cannot be read as YAML ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{place}: a recipe is a table with merge_method and models or slices; got {type(found).__name__}.")
    reader = _Reader(found)
    recipe = reader.recipe()
    if reader.wrong:
        raise UserError(f"{place}: cannot be run here:\n" + "\n".join(f"  - {w}" for w in dict.fromkeys(reader.wrong)))
    return recipe


class _Reader:
    """Collects what is wrong while it reads."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found, self.wrong = found, []  # type: tuple[dict[str, Any], list[str]]

    def recipe(self) -> Recipe:
        found = self.found
        self.wrong += [f"unknown or unsupported entry {k!r}.{nearest(str(k), TOP)}" for k in found if k not in TOP]
        method = str(found.get("merge_method", ""))
        if method not in METHODS:
            self.wrong.append(f"merge_method {method!r} is not supported.{nearest(method, METHODS)}")
        base = self._model(found["base_model"]) if found.get("base_model") else None
        slices = self._slices(method)
        if method in NEED_BASE and base is None:
            self.wrong.append(f"merge_method {method!r} needs base_model.")
        self._counts(method, slices, base)
        dtype = found.get("out_dtype") or found.get("dtype")
        if dtype is not None and dtype not in DTYPES:
            self.wrong.append(f"dtype {dtype!r} is not supported; known: {', '.join(DTYPES)}.")
        source, multiple = self._tokenizer()
        parameters = self._parameters(method, found.get("parameters"), "parameters")
        return Recipe(method, slices, base, parameters, dtype, source, multiple)

    def _slices(self, method: str) -> tuple[Slice, ...]:
        models, slices = self.found.get("models"), self.found.get("slices")
        if (models is None) == (slices is None):
            self.wrong.append("give either models or slices.")
            return ()
        if models is not None:
            if not isinstance(models, list) or not models:
                self.wrong.append("models must be a list of {model, parameters}.")
                return ()
            return (Slice(tuple(s for i, m in enumerate(models) if (s := self._source(method, m, f"models[{i}]", ranged=False)))),)
        if not isinstance(slices, list) or not slices:
            self.wrong.append("slices must be a list of {sources, parameters}.")
            return ()
        return tuple(self._slice(method, part, f"slices[{i}]") for i, part in enumerate(slices))

    def _slice(self, method: str, part: Any, where: str) -> Slice:
        if not isinstance(part, dict) or not isinstance(part.get("sources"), list) or not part["sources"]:
            self.wrong.append(f"{where} must have a list of sources.")
            return Slice(())
        self.wrong += [f"{where}: unsupported entry {k!r}." for k in part if k not in ("sources", "parameters")]
        sources = tuple(s for i, m in enumerate(part["sources"]) if (s := self._source(method, m, f"{where}.sources[{i}]", ranged=True)))
        if len({s.layers[1] - s.layers[0] for s in sources if s.layers}) > 1:
            self.wrong.append(f"{where}: its sources give different numbers of layers.")
        return Slice(sources, self._parameters(method, part.get("parameters"), where))

    def _source(self, method: str, said: Any, where: str, *, ranged: bool) -> Source | None:
        if not isinstance(said, dict) or "model" not in said:
            self.wrong.append(f"{where} must have a model.")
            return None
        known = ("model", "parameters", "layer_range") if ranged else ("model", "parameters")
        self.wrong += [f"{where}: unsupported entry {k!r}." for k in said if k not in known]
        layers = said.get("layer_range")
        if ranged and not (
            isinstance(layers, list) and len(layers) == 2 and all(isinstance(i, int) for i in layers) and 0 <= layers[0] < layers[1]
        ):
            self.wrong.append(f"{where}: layer_range must be [first, last), two whole numbers; got {layers!r}.")
            layers = [0, 1]
        name = self._model(said["model"])
        return Source(name, (layers[0], layers[1]) if ranged and layers else None, self._parameters(method, said.get("parameters"), where))

    def _model(self, said: Any) -> str:
        """A model's name; their form {model: {path: ...}, lora: {path: ...}} is the text 'model+lora'."""
        if isinstance(said, dict):
            said = {"model": said} if "path" in said else said
            named = [p if isinstance(p, dict) else {"path": p} for p in (said.get("model"), said.get("lora")) if p is not None]
            more = [k for k in said if k not in ("model", "lora")] + [k for p in named for k in p if k != "path"]
            self.wrong += [f"model {said!r}: unsupported entry {k!r}; models are folders here." for k in more]
            return "+".join(str(p.get("path")) for p in named)
        return str(said)

    def _parameters(self, method: str, said: Any, where: str) -> Parameters:
        if said is None:
            return {}
        if not isinstance(said, dict):
            self.wrong.append(f"{where}: parameters must be a table.")
            return {}
        known = PARAMETERS.get(method, ())
        said = {name: _as_number(value) for name, value in said.items()}
        for name, value in said.items():
            if method in METHODS and name not in known:
                self.wrong.append(f"{where}: parameter {name!r} of {method} is not supported.{nearest(str(name), known)}")
            elif not _fine(value):
                self.wrong.append(
                    f"{where}: parameter {name!r} must be a value, a list of numbers, or a list of {{filter, value}}; got {value!r}."
                )
        return said

    def _tokenizer(self) -> tuple[str, int | None]:
        said, multiple = self.found.get("tokenizer_source"), None
        if (table := self.found.get("tokenizer")) is not None:
            if not isinstance(table, dict) or said is not None:
                self.wrong.append("tokenizer must be a table, and tokenizer_source not given beside it.")
                return "", None
            said, multiple = table.get("source"), table.get("pad_to_multiple_of")
            self.wrong += [f"tokenizer: {k!r} is not supported." for k in table if k not in ("source", "pad_to_multiple_of")]
            if multiple is not None and (not isinstance(multiple, int) or isinstance(multiple, bool) or multiple < 1):
                self.wrong.append(f"tokenizer: pad_to_multiple_of must be a whole number, 1 or more; got {multiple!r}.")
        if said is not None and not isinstance(said, str):
            said = self._model(said)
        return (said or "").removeprefix("model:"), multiple

    def _counts(self, method: str, slices: Sequence[Slice], base: str | None) -> None:
        least, most = {
            "passthrough": (1, 1), "slerp": (1, 1), "nearswap": (1, 1), "arcee_fusion": (1, 1), "nuslerp": (2, 2), "model_stock": (2, None),
        }.get(method, (1, None))  # fmt: skip
        for i, part in enumerate(slices):
            named = [s.model for s in part.sources]
            if twice := next((m for m in named if named.count(m) > 1), None):
                self.wrong.append(f"part {i} names {twice} twice, as mergekit does not allow either: give its weight once.")
            given = len([s for s in part.sources if s.model != base or method not in (*NEED_BASE, "nuslerp", "multislerp")])
            if given < least or (most is not None and given > most):
                beside = " beside the base" if method in NEED_BASE else ""
                rule = f"{least}" if most == least else f"at least {least}"
                self.wrong.append(f"{method} takes {rule} model{'s' if least > 1 else ''}{beside}; part {i} names {given}.")


def _as_number(value: Any) -> Any:
    """Text that is a number as the number, within lists too: YAML 1.1 takes 1e-6 for text."""
    if isinstance(value, list):
        return [_as_number(v) for v in value]
    if isinstance(value, dict):
        return {k: v if k == "filter" else _as_number(v) for k, v in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _fine(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return True
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(v, dict) for v in value):
        return all("value" in v and set(v) <= {"filter", "value"} and _fine(v["value"]) for v in value)
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
