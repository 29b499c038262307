"""Convert: a change as low-rank factors, and as an adapter that peft loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor, nn

from metier import atomic
from metier.delta import Delta, Entry, LowRank, New
from metier.delta.parts.truncate import low_rank
from metier.delta.record import record
from metier.errors import KeyMismatch, UserError
from metier.merge._adapter import TOGETHER, shared
from metier.model.base import Base

NEW = "is a tensor the base does not have."
FOLD = "Such a change can be folded: metier delta fold."
RENAMED = "is in the base's files, but transformers joins or renames it when it loads them, so an adapter has no module for it."
TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}


def to_lora(delta: Delta, rank: int | None = None, *, energy: float | None = None) -> Delta:
    """Every matrix's change as its nearest of rank `rank`, or of the lowest rank with the fraction `energy` of its squared norm.

    Vectors and new tensors stay as they are; matrices that do not change are left out. Raises UserError where no matrix changes.
    """
    entries: dict[str, Entry] = {}
    for name in delta:
        entry = delta[name]
        if isinstance(entry, New) or len(entry.shape) != 2:
            entries[name] = entry
        elif (found := _factors(entry, rank, energy)) is not None:
            entries[name] = found
    if not any(isinstance(e, LowRank) for e in entries.values()):
        raise UserError("no matrix of the delta changes, so there is nothing to take apart.")
    settings = {"rank": rank} if energy is None else {"energy": energy}
    return Delta(entries, delta.base, record("compress", delta.record, method="svd", settings=settings))


def _factors(entry: Entry, rank: int | None, energy: float | None) -> LowRank | None:
    if isinstance(entry, LowRank) and rank is not None and entry.up.shape[1] <= rank:
        return entry
    found = low_rank(entry.dense(), rank, energy=energy)
    real = int((found.up != 0).any(0).sum())  # columns beyond the true rank are zero
    return LowRank(found.up[:, :real].contiguous(), found.down[:real].contiguous()) if real else None


class Adapter(NamedTuple):
    """A change in peft's terms: its configuration and its tensors."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]


def to_peft(delta: Delta, base: Base, weights: Mapping[str, Tensor]) -> Adapter:
    """The change as a LoRA adapter: low-rank matrices as factors, small tensors as whole modules to save.

    weights: the base's, by name. Raises UserError naming every tensor that has no place in such an adapter.
    """
    modules, saved, biases, wrong = _places(delta, base.model, weights)
    if wrong:
        raise UserError("to-peft: " + " ".join(wrong))
    if not modules:
        raise UserError("to-peft: the delta has no low-rank matrix. Make some first: metier delta to-lora DELTA --rank 16 -o OUT.")
    tensors: dict[str, Tensor] = {}
    for module, name in modules.items():
        for owner in (module, *_tied(base.model).get(module, ())):
            tensors |= _pair(owner, delta[name], base.model.get_submodule(owner))  # type: ignore[arg-type]
    for module in saved:
        for leaf, _ in base.model.get_submodule(module).named_parameters(recurse=False):
            name = f"{module}.{leaf}"
            before = weights[name].float()  # not rounded to a type that the base may not be loaded in
            tensors[f"base_model.model.{name}"] = delta.new_value(name, before) if name in delta.entries else before.clone()
    for module, name in biases.items():
        tensors[f"base_model.model.{module}.base_layer.bias"] = delta.new_value(name, weights[name].float())
    ranks: dict[str, int] = {m: delta[n].up.shape[1] for m, n in modules.items()}  # type: ignore[union-attr]
    return Adapter(_config(base, ranks, saved, bool(biases)), tensors)


def save_peft(adapter: Adapter, out: Path) -> None:
    """Write the adapter as peft does, whole or not at all."""
    with atomic.folder(out) as draft:
        (draft / "adapter_config.json").write_text(json.dumps(adapter.config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(adapter.tensors, draft / "adapter_model.safetensors", metadata={"format": "pt"})


def with_peft(base: Base, out: Path) -> nn.Module:
    """The base with the adapter in `out` beside its weights, as peft runs it. The base's own model changes: give one not used again."""
    from peft import PeftModel

    model: nn.Module = PeftModel.from_pretrained(base.model, str(out))
    model.eval()
    return model


def _places(delta: Delta, model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[dict[str, str], list[str], dict[str, str], list[str]]:
    """(module -> tensor that gets factors, modules to save whole, module -> bias beside its factors, what is wrong)."""
    modules, saved, wrong = {}, [], {}  # type: dict[str, str], list[str], dict[str, list[str]]
    known = dict(model.named_modules())
    for name in delta:
        entry, (module, _, leaf) = delta[name], name.rpartition(".")
        there = module in known and leaf in dict(known[module].named_parameters(recurse=False))
        if isinstance(entry, New):
            wrong.setdefault(NEW, []).append(name)
        elif not there and name in weights:
            wrong.setdefault(RENAMED, []).append(name)
        elif not there:
            raise KeyMismatch(f"to-peft: the base has no tensor '{name}'. Was the change made from another model?")
        elif len(entry.shape) > 2:
            wrong.setdefault(f"has {len(entry.shape)} axes, as fused experts have, and an adapter holds matrices.", []).append(name)
        elif len(entry.shape) == 2 and not _is_linear(known[module]):
            wrong.setdefault(f"is a matrix of a {type(known[module]).__name__}, where peft puts no factors.", []).append(name)
        elif isinstance(entry, LowRank):
            modules[module] = name
        elif len(entry.shape) <= 1 and any(known[module].children()):
            wrong.setdefault(f"belongs to a {type(known[module]).__name__}, which an adapter cannot save whole.", []).append(name)
        elif len(entry.shape) <= 1:
            saved.append(module)
        else:
            kind = type(entry).__name__.lower()
            wrong.setdefault(f"is {kind}, an adapter holds low-rank matrices: run metier delta to-lora first.", []).append(name)
    biases = {m: f"{m}.bias" for m in saved if m in modules}
    saved = [m for m in dict.fromkeys(saved) if m not in biases]
    told = [f"'{names[0]}'{f' (and {len(names) - 1} more)' if len(names) > 1 else ''} {why}" for why, names in wrong.items()]
    told += [FOLD] if told and NEW not in wrong else []
    return modules, saved, biases, told


def _is_linear(module: nn.Module) -> bool:
    """Whether peft puts LoRA beside it."""
    return isinstance(module, nn.Linear | nn.Embedding) or type(module).__name__ == "Conv1D"


def _pair(module: str, entry: LowRank, layer: nn.Module) -> dict[str, Tensor]:
    """The factors under peft's names. LowRank is scale * up @ down for a weight as stored; peft's B A is transposed for some layers."""
    up, down = (entry.scale * entry.up.float()), entry.down.float()
    key = f"base_model.model.{module}"
    if isinstance(layer, nn.Embedding):
        return {f"{key}.lora_embedding_A": up.T.contiguous(), f"{key}.lora_embedding_B": down.T.contiguous()}
    if type(layer).__name__ == "Conv1D":
        up, down = down.T, up.T
    return {f"{key}.lora_A.weight": down.contiguous().clone(), f"{key}.lora_B.weight": up.contiguous().clone()}


def _config(base: Base, ranks: Mapping[str, int], saved: list[str], biases: bool) -> dict[str, Any]:
    """adapter_config.json; alpha equals rank everywhere, so that the factors are used as they are."""
    most = max(ranks.values())
    tied = {m: o for m, o in _tied(base.model).items() if m in ranks or m in saved}
    other = {o: r for m, r in ranks.items() if r != most for o in (m, *tied.get(m, ()))}
    transposed = any(type(base.model.get_submodule(m)).__name__ == "Conv1D" for m in ranks)
    return {
        "peft_type": "LORA", "task_type": TASKS[base.family], "base_model_name_or_path": base.path, "inference_mode": True,
        "r": most, "lora_alpha": most, "rank_pattern": other, "alpha_pattern": other, "lora_dropout": 0.0, "bias": "lora_only" if biases else "none",
        "target_modules": _targets(base.model, set(ranks)), "modules_to_save": saved or None, "fan_in_fan_out": transposed,
        **({TOGETHER: True} if tied else {}),
    }  # fmt: skip


def _tied(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Modules whose weight others share -> those others: what changes in an embedding changes in its output layer too."""
    owners = [[name.rpartition(".")[0] for name in names] for names in shared(model)]
    return {m: tuple(o for o in modules if o != m) for modules in owners for m in modules}


def _targets(model: nn.Module, modules: set[str]) -> list[str]:
    """Last names ('q_proj') where they mean exactly these modules, as most tools expect; else full names."""
    short = {m.rpartition(".")[2] for m in modules}
    return sorted(short if {n for n, _ in model.named_modules() if n.rpartition(".")[2] in short} == modules else modules)
