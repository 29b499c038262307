"""Laid: how a result is laid out that no model has the layout of: its files, what lies beside them, its configuration."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metier.delta.checkpoint import INDEX
from metier.delta.parts.scale import depth_of
from metier.delta.shape import Shape
from metier.delta.stored import FLOATING, SIZES, Facts, layout
from metier.delta.write import KEPT, RECIPE
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 5_000_000_000  # bytes of a file of the result, at most
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece", "sentencepiece", "chat_template")


class Shard(NamedTuple):
    """A file of the result: what `Stored` is for a file that is there."""

    path: Path
    facts: Mapping[str, Facts]
    metadata: Mapping[str, str]
    whole: Mapping[str, Tensor]

    def tensor(self, name: str) -> Tensor:
        """A tensor of whole numbers, which is copied; for all others one that tells type and shape."""
        facts = self.facts[name]
        return self.whole[name] if name in self.whole else torch.zeros((), dtype=facts.dtype).expand(facts.shape)


@dataclass(frozen=True)
class Laid:
    """How the result is laid out: what `Checkpoint` is for files that are there."""

    path: Path
    shards: tuple[Shard, ...]
    stamps: Any

    @cached_property
    def where(self) -> dict[str, Shard]:
        """name -> file."""
        return {n: s for s in self.shards for n in s.facts}

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)

    def __getitem__(self, name: str) -> Tensor:
        return self.where[name].tensor(name)

    def shape(self, name: str) -> Shape:
        """A tensor's shape."""
        return Shape(self.where[name].facts[name].shape)

    def facts(self, name: str) -> Facts:
        """Type, shape and place of a tensor."""
        return self.where[name].facts[name]

    def floating(self, name: str) -> bool:
        """Whether a tensor's entries are floating-point numbers."""
        return self.facts(name).kind in FLOATING

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type."""
        return self.where[name].facts[name].dtype

    @property
    def tied(self) -> None:
        """No tensor stands for another: what the result holds is what is written."""
        return None

    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(f.end - f.begin for s in self.shards for f in s.facts.values())

    def stamp(self) -> Any:
        """What tells whether the models are still the same."""
        return self.stamps


def laid_out(folder: Path, tensors: Sequence[tuple[str, str, tuple[int, ...]]], whole: Mapping[str, Tensor], stamps: Any) -> Laid:
    """The tensors, in their order, in as few files as hold SHARD bytes each. whole: those of whole numbers, which are copied.

    tensors: name, type ("BF16"), shape.
    """
    groups: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, kind, shape in tensors:
        size = math.prod(shape) * SIZES[kind]
        if filled and filled + size > SHARD:
            groups.append([])
            filled = 0
        groups[-1].append((name, kind, shape))
        filled += size
    count = len(groups)
    names = ["model.safetensors"] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    return Laid(folder, tuple(Shard(folder / n, layout(g)[1], {"format": "pt"}, whole) for n, g in zip(names, groups, strict=True)), stamps)


def beside(model: Path, folder: Path, *, tokenizer: bool) -> None:
    """Copy what lies beside a model's weights, with or without its tokenizer."""
    for file in model.iterdir() if model.is_dir() else ():
        ours = file.is_file() and file.suffix in KEPT and file.name not in (INDEX, RECIPE)
        if ours and (tokenizer or not file.name.startswith(TOKENIZER)):
            shutil.copyfile(file, folder / file.name)


def describe(folder: Path, config: Mapping[str, Any], laid: Laid) -> None:
    """Write the configuration, and the index where there are several files."""
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if len(laid.shards) > 1:
        index = {"metadata": {"total_size": laid.bytes()}, "weight_map": {n: s.path.name for n, s in laid.where.items()}}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def relayered(config: Mapping[str, Any], taken: Sequence[int]) -> dict[str, Any]:
    """The configuration's entries that count or list layers, for a model of the layers `taken`."""
    found: dict[str, Any] = {k: len(taken) for k in LAYERS if k in config}
    before = next((config[k] for k in LAYERS if k in config), None)
    lists = {k: v for k, v in config.items() if isinstance(v, list) and len(v) == before and k.endswith(("types", "layers", "pattern"))}
    return found | {k: [v[i] for i in taken] for k, v in lists.items()}


def layers_of(files: Iterable[str]) -> int:
    """How many layers the names of a model's tensors number."""
    return max((d for n in files if (d := depth_of(n)) is not None), default=-1) + 1
