"""Checkpoint: a model on disk in Hugging Face form, one safetensors file or several with an index; read tensor by tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metier.delta.record import source
from metier.delta.shape import Shape
from metier.delta.stored import FLOATING, Facts, Mapped, Stored, parsed, raw
from metier.errors import KeyMismatch, UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
OUTPUT = "lm_head.weight"
ROWS = (*EMBEDDINGS, "shared.weight", OUTPUT, "embed_out.weight")


class Checkpoint(Mapping[str, "Tensor"]):
    """name -> tensor, mapped from the files; a mapping like a state dict, in the order of files and of their data.

    path     the folder (or the one file)
    shards   the files
    where    name -> file; tied tensors that are stored once have one name
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()
        self.shards = [Stored(p) for p in _files(self.path)]
        self.where: dict[str, Stored] = {}
        for shard in self.shards:
            for name in shard.facts:
                if name in self.where:
                    raise UserError(f"{shard.path}: '{name}' is also in {self.where[name].path.name}. The checkpoint is damaged.")
                self.where[name] = shard
        _as_indexed(self.path / INDEX, self.where)

    def plain(self) -> Checkpoint:
        """Itself. Raises UserError where weights are the codes of a quantisation: their differences are no differences of weights."""
        packed = bool(self.config.get("quantization_config"))
        for name in self.where:
            facts = self.facts(name)
            if facts.kind.startswith("F8") or (packed and len(facts.shape) > 1 and not self.floating(name)):
                raise UserError(
                    f"{self._shard(name).path}: '{name}' is quantised ({facts.kind}), and codes cannot be added up. Save the model in bfloat16 "
                    "first (in transformers: from_pretrained, dequantize, save_pretrained)."
                )
        return self

    def __getitem__(self, name: str) -> Tensor:
        return self._shard(name).tensor(self._name(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.where)

    def __len__(self) -> int:
        return len(self.where)

    def __contains__(self, name: object) -> bool:
        return name in self.where or (name == OUTPUT and self.tied is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of files and of their data."""
        return tuple(self.where)

    def facts(self, name: str) -> Facts:
        """Type, shape and place of a tensor, as the header says. Raises KeyMismatch naming tensor and folder."""
        return self._shard(name).facts[self._name(name)]

    def shape(self, name: str) -> Shape:
        """A tensor's shape."""
        return Shape(self.facts(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type."""
        return self.facts(name).dtype

    def floating(self, name: str) -> bool:
        """Whether a tensor's entries are floating-point numbers."""
        return self.facts(name).kind in FLOATING

    def mapped(self, name: str) -> Mapped:
        """A tensor that nobody has read yet."""
        return Mapped(self._shard(name), self._name(name))

    def read(self, name: str) -> Tensor:
        """A tensor, a view of the mapped file."""
        return self[name]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's config.json; empty where there is none."""
        place = self.path / "config.json"
        return parsed(place, place.read_bytes()) if place.is_file() else {}

    @cached_property
    def tied(self) -> str | None:
        """The embedding that an output layer shares which is not stored; None where there is none."""
        if OUTPUT in self.where or not self.config.get("tie_word_embeddings"):
            return None
        return next((n for n in self.where if n.endswith(EMBEDDINGS)), None)

    def fingerprint(self) -> str:
        """SHA-256 over names, shapes, types and bytes in the order of names: a base's fingerprint where it is loaded in the stored type."""
        digest = hashlib.sha256()
        for name in sorted(self.where):
            tensor = self[name]
            digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
            digest.update(raw(tensor) if tensor.ndim else str(tensor.item()).encode())
        return digest.hexdigest()

    def stamp(self) -> list[list[Any]]:
        """What tells quickly whether the files are still the same: names, sizes, times of change."""
        return [[str(s.path.resolve()), (facts := s.path.stat()).st_size, facts.st_mtime_ns] for s in self.shards]

    def source(self) -> dict[str, Any]:
        """What a record says of it: path and fingerprint of its files (sampled where they are large), and their stamp."""
        return source(self.path, "checkpoint", [s.path for s in self.shards]) | {"files": self.stamp()}

    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(f.end - f.begin for s in self.shards for f in s.facts.values())

    def _name(self, name: str) -> str:
        return self.tied if name not in self.where and name == OUTPUT and self.tied else name

    def _shard(self, name: str) -> Stored:
        if (stored := self._name(name)) not in self.where:
            raise KeyMismatch(f"{self.path}: has no tensor '{name}'. Is it a checkpoint of another architecture?")
        return self.where[stored]


def has_rows(name: str) -> bool:
    """Whether a tensor has a row for each token."""
    return name.endswith(ROWS)


def misfit(name: str, base: Sequence[int], other: Sequence[int]) -> str:
    """What a tensor of another shape than the base's may come from, and what to do."""
    if not has_rows(name) or len(base) != 2 or len(other) != 2 or base[1] != other[1]:
        return "Was it made from another base?"
    return (
        f"It has rows for {other[0]} tokens, the base for {base[0]}. If its vocabulary was resized, merge it by a recipe (metier merge "
        "from-mergekit) with base_model: BASE and tokenizer_source: union, which keeps added tokens, or base, which drops them; the method "
        "linear with this one model alone gives it the base's rows, and then diff and every merge take it. "
        "(An adapter is first folded by peft into the base with its embeddings resized.)"
    )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such folder. Give a folder with safetensors files, or one such file.")
    if (path / INDEX).is_file():
        return [path / n for n in sorted(set(_index(path / INDEX).values()))]
    files = [path / "model.safetensors"] if (path / "model.safetensors").is_file() else sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        what = f"{len(files)} safetensors files and no {INDEX}" if files else "no safetensors file"
        raise UserError(f"{path}: {what}. Give a model in Hugging Face form; other formats are not read.")
    return files


def _index(place: Path) -> dict[str, str]:
    found = parsed(place, place.read_bytes()).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(f, str) and f and Path(f).name == f for f in found.values()):
        raise UserError(f"{place}: has no table weight_map of tensors and files in the same folder. The file is damaged.")
    return found


def _as_indexed(place: Path, where: Mapping[str, Stored]) -> None:
    if not place.is_file():
        return
    for name, file in _index(place).items():
        if name not in where or where[name].path.name != file:
            raise UserError(f"{place}: says that '{name}' is in {file}, which does not hold it. The checkpoint is incomplete or damaged.")
    if surplus := sorted(set(where) - set(_index(place))):
        raise UserError(f"{place}: does not name {len(surplus)} tensors of the files, the first '{surplus[0]}'. The checkpoint is damaged.")


def dump_index(where: Mapping[str, str], total: int) -> str:
    """The text of an index: name -> file, and the bytes of all tensors."""
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}, indent=2) + "\n"
