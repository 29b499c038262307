"""Tuned checkpoints and adapters of the tiny bases, on disk, as users have them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.tiny import tiny_tokenizer
from torch import Tensor

from metier.delta import Checkpoint
from metier.model import Base, load_base

Change = Callable[[str, Tensor], Tensor]


def noise(seed: int, size: float = 0.02) -> Change:
    """Every matrix changes a little; other tensors stay."""

    def change(name: str, tensor: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed + sum(map(ord, name)))
        return tensor + size * torch.randn(tensor.shape, generator=generator) if tensor.ndim == 2 else tensor

    return change


def checkpoint(base: Base, place: Path, change: Change | None = None, *, dtype: torch.dtype = torch.float32, shards: int = 1) -> Path:
    """A checkpoint of the base's architecture, its weights changed, in a type, in so many files."""
    old = Checkpoint(base.path)
    tensors = {n: (change(n, old[n].float()) if change else old[n].clone()).to(dtype).contiguous() for n in old}
    place.mkdir(parents=True)
    for file in Path(base.path).iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copyfile(file, place / file.name)
    names = list(tensors)
    groups = [names[i::shards] for i in range(shards)]
    files = ["model.safetensors"] if shards == 1 else [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    for file, group in zip(files, groups, strict=True):
        save_file({n: tensors[n] for n in group}, place / file, metadata={"format": "pt"})
    if shards > 1:
        where = {n: f for f, group in zip(files, groups, strict=True) for n in group}
        (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return place


def adapter(
    base: Base, place: Path, *, seed: int = 0, rank: int = 4, save: tuple[str, ...] = (), targets: tuple[str, ...] = ("q_proj", "v_proj")
) -> Path:
    """A LoRA adapter that peft saved, its B no longer zero."""
    from peft import LoraConfig, get_peft_model

    model = load_base(base.path, device="cpu").model
    config: Any = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), modules_to_save=list(save) or None)
    tuned = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    tuned.save_pretrained(str(place))
    return place


def fused(place: Path, kind: str, *, seed: int = 0) -> Path:
    """A base of two layers with four experts each: 'mixtral', whose file has a matrix for each expert, 'gpt-oss', whose file joins them."""
    import transformers

    tokenizer = tiny_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128, "num_local_experts": 4, "num_experts_per_tok": 2,
    }  # fmt: skip
    name = {"mixtral": "Mixtral", "gpt-oss": "GptOss"}[kind]
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**sizes, **rope))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place
