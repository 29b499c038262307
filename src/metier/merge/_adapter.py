"""PEFT adapters as deltas: plain LoRA from its factors, everything else through peft's own conversion."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.delta import Between, Delta, LowRank, New, diff
from metier.delta.checkpoint import OUTPUT
from metier.delta.entry import Entry
from metier.delta.stored import Stored
from metier.errors import KeyMismatch, UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from metier.model import Base

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TOGETHER = "ensure_weight_tying"
USUAL = (  # options that leave a LoRA adapter plain, whatever they are; any other that is set is left to peft
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_config", "megatron_core",
    "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "task_type", "use_rslora",
)  # fmt: skip
INITS = (None, True, False, "gaussian", "eva", "orthogonal")  # the others change the base's weights when peft loads the adapter
PLAIN = ("lora_A.weight", "lora_B.weight")


def adapter(place: Path, base: Mapping[str, Tensor], model: Callable[[], Base], tied: str | None = None) -> Delta:
    """The change of an adapter: LowRank for plain LoRA, `New` or a difference for modules saved whole, else dense.

    model  gives the base as a model, for adapters that only peft can convert
    tied   the base's embedding, where its output layer is the same tensor
    Raises UserError for a folder that is no adapter, KeyMismatch for one of another base, or that changes one of two tied layers.
    """
    config = config_of(place)
    stored = Stored(place / TENSORS)
    tensors = {n.removeprefix(PREFIX): stored.tensor(n) for n in stored.facts}
    if _is_plain(config, tensors):
        entries = _plain(place, config, tensors, base)
        if tied is not None:
            _as_one(place, config, tensors, entries, tied)
    else:
        entries = dict(_by_peft(place, model(), base).entries)
    if not entries:
        raise KeyMismatch(f"{place / TENSORS}: changes no tensor of the base; its modules are {config.get('target_modules')}.")
    facts = {"peft_type": config["peft_type"], "rank": config.get("r"), "tuned_on": config.get("base_model_name_or_path")}
    return Delta(entries, provenance={"settings": {k: v for k, v in facts.items() if v is not None}})


def config_of(place: Path) -> dict[str, Any]:
    """The adapter_config.json of an adapter. Raises UserError for a folder that is no adapter."""
    try:
        found = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{place / CONFIG}: cannot be read ({error}). Give the folder that peft's save_pretrained wrote.") from error
    if not isinstance(found, dict) or "peft_type" not in found:
        raise UserError(f"{place / CONFIG}: names no peft_type. Give the folder that peft's save_pretrained wrote.")
    if found["peft_type"] == "LORA" and not isinstance(found.get("lora_alpha"), int | float):
        raise UserError(f"{place / CONFIG}: lora_alpha must be a number; got {found.get('lora_alpha')!r}. Save the adapter again.")
    if not (place / TENSORS).is_file():
        raise UserError(f"{place}: has no {TENSORS}. Save the adapter as safetensors; pickled weights can run code and are not read.")
    return found


def _is_plain(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Whether scale * B A of linear layers is all that the adapter does (beside modules saved whole)."""
    adapted = [n for n in tensors if ".lora_" in n]
    flat = all(n.endswith(PLAIN) and tensors[n].ndim == 2 for n in adapted)
    more = any(value for option, value in config.items() if option not in USUAL)
    kept = config.get("init_lora_weights", True) in INITS and config.get("bias", "none") == "none"
    return config["peft_type"] == "LORA" and bool(adapted) and flat and kept and not more


def _plain(place: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for name, tensor in tensors.items():
        if name.endswith(PLAIN[0]):
            module = name.removesuffix("." + PLAIN[0])
            if (other := f"{module}.{PLAIN[1]}") not in tensors:
                raise UserError(f"{place / TENSORS}: has '{name}' without '{other}'. The file is damaged; save the adapter again.")
            down, up, scale = tensor, tensors[other], _scale(config, module, len(tensor))
            if config.get("fan_in_fan_out"):  # a map stored transposed (GPT-2)
                down, up = up.T.contiguous(), down.T.contiguous()
            if len(tensor) != (rank := _of(config.get("rank_pattern"), module, config.get("r"))):
                raise UserError(
                    f"{place / TENSORS}: '{name}' has rank {len(tensor)}, {place / CONFIG} says {rank}. Save the adapter again."
                )
            entries[f"{module}.weight"] = LowRank(up, down, scale)
        elif ".lora_" not in name and name not in base:
            entries[name] = New(tensor)
        elif ".lora_" not in name and not torch.equal(base[name].float(), tensor.float()):  # what is saved whole may be untuned
            entries[name] = Between(base[name], tensor)
    return entries


def _as_one(place: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], entries: dict[str, Entry], tied: str) -> None:
    """Leave out the output layer where it is saved equal to the embedding, whose tensor the base has for both."""
    first, last, saved = tensors.get(tied), tensors.get(OUTPUT), config.get("modules_to_save") or ()
    if last is not None and first is not None and torch.equal(first, last):
        entries.pop(OUTPUT, None)
    elif OUTPUT in entries or (tied in entries and any(f".{tied}".endswith(f".{m}.weight") for m in saved) and not config.get(TOGETHER)):
        raise _apart(place, OUTPUT if OUTPUT in entries else tied)


def _apart(place: Path, name: str) -> KeyMismatch:
    return KeyMismatch(
        f"{place}: changes '{name}' by itself, and in the base embedding and output layer are one tensor: both would change. Give the base an "
        "output layer of its own (tie_word_embeddings false) and fold into that, or train with peft's ensure_weight_tying."
    )


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA; alpha by the module's own pattern where it has one."""
    alpha = _of(config.get("alpha_pattern"), module, config["lora_alpha"])
    return float(alpha / rank**0.5 if config.get("use_rslora") else alpha / rank)


def _of(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """A module's own value, where a pattern is the end of its name."""
    return next((value for p, value in (patterns or {}).items() if re.match(rf"(.*\.)?({p})$", module)), default)


def _by_peft(place: Path, base: Base, files: Mapping[str, Tensor]) -> Delta:
    """What peft folds in float32, by the names that tensors have in `files`."""
    from peft import PeftModel

    model = copy.deepcopy(base.model).float()
    before = {n: p.data.clone() for n, p in model.named_parameters()}
    tied = shared(model)
    for first, *others in tied:
        _untie(model, first, others)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")  # they are compared below
            merged = PeftModel.from_pretrained(model, str(place)).merge_and_unload()
    except (ValueError, RuntimeError, KeyError, NotImplementedError, AttributeError) as error:
        raise UserError(f"{place}: peft cannot fold this adapter into the base ({str(error)[:300]}).") from error
    after = {n: p.data for n, p in merged.named_parameters() if n in before}
    for first, *others in tied:
        for other in others:
            if not torch.equal(after[first], merged.get_parameter(other)):
                raise _apart(place, first if torch.equal(merged.get_parameter(other), before[first]) else other)
    if all(n in files for n in before):
        return diff(before, after)
    from transformers.core_model_loading import revert_weight_conversion  # some models join tensors of their files (Mixtral's experts)

    return diff(revert_weight_conversion(base.model, before), revert_weight_conversion(base.model, after))


def shared(model: nn.Module) -> list[tuple[str, ...]]:
    """The names of every parameter that has more than one."""
    found: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), []).append(name)
    return [tuple(names) for names in found.values() if len(names) > 1]


def _untie(model: nn.Module, first: str, others: Sequence[str]) -> None:
    """Give every module that shares a weight with the first one a copy of its own, so that peft changes each by itself."""
    own, weight = model.get_submodule(first.rpartition(".")[0]), model.get_parameter(first)
    for name in others:
        place, _, leaf = name.rpartition(".")
        module = model.get_submodule(place)
        if module is not own and getattr(module, leaf) is weight:
            setattr(module, leaf, torch.nn.Parameter(weight.detach().clone()))
