"""LoRA: learn a low-rank change B A beside every frozen linear map.

Paper:       Hu et al. 2021, arXiv:2106.09685, eq. 3; trained with peft's LoRA.
Formula:     h = W x + (alpha / rank) B A x.
Shapes:      W (out, in); A (rank, in); B (out, rank); x (..., in); h (..., out).
Units:       rank, count; alpha, factor; dropout, fraction; lr, step size of AdamW at its peak.
Randomness:  A at the start and the order of examples, by the run's seed.
Cost:        about full tuning's time less the weight gradients; memory for rank (in + out) numbers a map.
Deviations:  all linear maps but the output layer are adapted (the paper: query and value); an encoder's new head is trained along.
Errors:      UserError where no linear map matches `targets`, or something else does (an embedding, a convolution).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metier import check
from metier.delta import Delta, LowRank
from metier.delta.entry import Entry
from metier.errors import UserError
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.task import Task
from metier.train import Run, Trainable, fit
from metier.train.moving import head_lr
from metier.train.trainable import head_entries, head_parameters, new_head

ABOUT = About(place="weights", trains=True, search={"lr": (5e-4, 2e-3, 8e-3)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of LoRA."""

    rank: int = 8
    """Rank of the change."""
    alpha: float = 16.0
    """The change is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapter's input while training."""
    targets: str = "all-linear"
    """Which linear maps: 'all-linear', or ends of module names, comma-separated (q_proj,v_proj)."""
    lr: float = 2e-3
    """Peak learning rate of AdamW."""
    batch_size: int = 16
    """Examples a step."""

    def __post_init__(self) -> None:
        check.integer("rank", self.rank, low=1)
        check.number("alpha", self.alpha, above=0)
        check.number("dropout", self.dropout, low=0, high=0.9)
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)


def lora(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Train low-rank adapters on the task and return their change of the weights, still low-rank."""
    import peft

    targets: Any = settings.targets if settings.targets == "all-linear" else [t.strip() for t in settings.targets.split(",")]
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets)
    torch.manual_seed(run.seed)
    with start.attached() as model, injected(model, config) as tuner:
        head = new_head(start, task)
        low_rank(tuner)  # refuses what cannot be stored before time is spent on it
        parameters = {n: p for n, p in tuner.named_parameters() if "lora_" in n}

        def change() -> WeightChange:
            return WeightChange(Delta(low_rank(tuner) | head_entries(head), start.base.fingerprint), task.choices if head else ())

        what = Trainable(start, task, parameters | head_parameters(head), change, head=head, lr_factor=head_lr)
        return fit(what, run, lr=settings.lr, batch_size=settings.batch_size).change  # type: ignore[return-value]


@contextlib.contextmanager
def injected(model: Any, config: Any) -> Iterator[nn.Module]:
    """peft's adapters inside `model` for the time of a with-block; the model's own modules come back after, also from half-way."""
    import peft

    own, asked = [(m, dict(m._modules)) for m in model.modules()], config.target_modules
    wrapped: list[Any] = []
    try:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "fan_in_fan_out is set to")  # peft then does what GPT-2's maps need
                tuner = peft.get_peft_model(model, config)
        except ValueError as error:
            why = "match no linear map of this base" if "not found" in str(error) else f"are refused by peft ({str(error)[:200]})"
            raise UserError(f"lora: targets {asked!r} {why}. Name ends of its module names.") from error
        wrapped = [m for m in model.modules() if isinstance(m, peft.tuners.tuners_utils.BaseTunerLayer)]
        _swap_hooks(wrapped)
        yield tuner
    finally:
        _swap_hooks(wrapped)
        for module, children in own:
            module._modules.clear()
            module._modules.update(children)
        if hasattr(model, "peft_config"):
            del model.peft_config


def _swap_hooks(wrapped: list[Any]) -> None:
    """Hooks on a wrapped map (steering) go to its wrapper and back, so that the adapter reads what the map reads."""
    for module in wrapped:
        inner = module.base_layer
        module._forward_pre_hooks, inner._forward_pre_hooks = inner._forward_pre_hooks, module._forward_pre_hooks
        module._forward_hooks, inner._forward_hooks = inner._forward_hooks, module._forward_hooks


def low_rank(tuner: nn.Module) -> dict[str, Entry]:
    """The adapters' changes by the name of the base's weight; maps stored transposed (GPT-2) give the transposed factors."""
    entries: dict[str, Entry] = {}
    for name, module in tuner.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        if not len(module.lora_A) or module.lora_A["default"].weight.ndim != 2:
            raise UserError(
                f"lora: {name.removeprefix('base_model.model.')!r} is no linear map, so its change is not low-rank. Leave it out of targets."
            )
        a, b = (m["default"].weight.detach().cpu().clone() for m in (module.lora_A, module.lora_B))
        scale = float(module.scaling["default"])
        weight = name.removeprefix("base_model.model.") + ".weight"
        entries[weight] = LowRank(a.T.contiguous(), b.T.contiguous(), scale) if module.fan_in_fan_out else LowRank(b, a, scale)
    return entries
