"""The pretraining recipe: a YAML file, read strictly into frozen dataclasses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from metier import check
from metier.errors import UserError, nearest

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The decoder's shape (Llama architecture, tied embeddings)."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    context: int = 512

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            check.integer(f"model.{item.name}", getattr(self, item.name), low=1)
        if self.hidden % self.heads:
            raise UserError(f"model.hidden must be a multiple of model.heads; got {self.hidden} and {self.heads}. Heads of 32 are usual.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The byte-level BPE tokenizer, trained on the first `documents` of the mixture."""

    size: int = 2048
    documents: int = 20000

    def __post_init__(self) -> None:
        check.integer("tokenizer.size", self.size, low=300, high=65535)
        check.integer("tokenizer.documents", self.documents, low=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Where the text comes from: shares of tokens by world."""

    tokens: int
    seed: int = 0
    era: int = 0  # 0: the worlds' first text; 1: their later text (news)
    held_out: int = 100_000  # tokens of the same mixture, for the evaluation loss
    shares: dict[str, float] = field(default_factory=dict)
    answer_weight: float = 1.0  # loss weight of answer tokens (after one of `answer_heads`, to the end of the line)
    answer_heads: list[str] = field(default_factory=lambda: ["Answer"])

    def __post_init__(self) -> None:
        check.integer("data.tokens", self.tokens, low=10_000)
        check.integer("data.seed", self.seed, low=0)
        check.integer("data.era", self.era, low=0)
        check.integer("data.held_out", self.held_out, low=1000)
        check.number("data.answer_weight", self.answer_weight, above=0)
        if not self.shares:
            raise UserError("data.shares: name at least one source, for example {facts: 1.0}.")
        for name, share in self.shares.items():
            check.number(f"data.shares.{name}", share, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """AdamW or Muon with warm-up and cosine decay; ends at `tokens` seen or after `minutes`, whichever comes first."""

    tokens: int
    minutes: float = 60.0
    precision: str = "auto"  # 'float32', 'bf16' (autocast), or the faster in a probe, which two runs may not agree on
    optimiser: str = "adamw"  # or 'muon': Muon inside the blocks, AdamW for the rest
    batch_tokens: int = 4096
    halved: float = 0.0  # fraction of the run, from its start, in which rows are cut in half (cheaper attention)
    learning_rate: float = 3e-3
    final_rate: float = 0.05  # fraction of learning_rate at the end
    warmup: float = 0.03  # fraction of the run
    weight_decay: float = 0.1
    beta2: float = 0.95
    clip: float = 1.0
    seed: int = 0
    workers: int = 1  # processes, each with its share of a batch: on a busy machine better than threads that wait for one another
    threads: int = 1  # of each worker
    checkpoint_minutes: float = 3.0
    eval_minutes: float = 2.0
    keep: list[float] = field(default_factory=list)  # fractions of the run at which the base as it then is goes to OUT.checkpoints

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens", "workers", "threads"):
            check.integer(f"training.{name}", getattr(self, name), low=1)
        check.one_of("training.precision", self.precision, ("auto", "float32", "bf16"))
        check.one_of("training.optimiser", self.optimiser, ("adamw", "muon"))
        check.integer("training.seed", self.seed, low=0)
        for name in ("minutes", "learning_rate", "clip", "checkpoint_minutes", "eval_minutes"):
            check.number(f"training.{name}", getattr(self, name), above=0)
        for name in ("halved", "final_rate", "warmup", "weight_decay", "beta2"):
            check.number(f"training.{name}", getattr(self, name), low=0, high=1)
        for fraction in self.keep:
            check.fraction("training.keep", fraction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a pretrained base. `start` names a base (embedded, or a folder) whose weights and tokenizer it begins with."""

    name: str
    version: int
    model: Shape
    tokenizer: Vocabulary
    data: Mixture
    training: Training
    start: str = ""

    def digest(self, *sections: str) -> str:
        """12 hex digits of the named sections (all by default)."""
        content = dataclasses.asdict(self)
        chosen = {name: content[name] for name in sections} if sections else content
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:12]


KINDS = ("decoder", "encoder")


def kind(path: Path) -> str:
    """What a recipe makes: a 'decoder', unless it says otherwise."""
    try:
        return check.one_of("kind", str(_read(path).get("kind", KINDS[0])), KINDS)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error


def find(recipe: str | Path, beside: Path = Path()) -> Path:
    """A recipe's file: a path (from the folder `beside`), or the name of a packaged one."""
    path = beside / recipe
    if path.is_file():
        return path
    packaged = RECIPES / f"{recipe}.yaml"
    if Path(recipe).name == str(recipe) and packaged.exists():
        return packaged
    known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
    raise UserError(f"{recipe}: no such recipe, neither a file nor a packaged one.{nearest(str(recipe), known)}")


def load(path: Path) -> Recipe:
    """Read a decoder's recipe; `extends:` another one (a packaged one's name, or a file beside it) fills in what is not said.
    Unknown keys are errors, all reported at once."""
    content, parts = read(path, {"model": Shape, "tokenizer": Vocabulary, "data": Mixture, "training": Training}, ("start",))
    return Recipe(start=str(content.get("start", "")), name=str(content["name"]), version=content["version"], **parts)


def read(path: Path, sections: dict[str, type], more: tuple[str, ...] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """(all keys, the sections as their classes) of a recipe that may have the keys `more` besides kind, name, version."""
    content, required = _read(path), ["name", "version", *sections]
    known = ["kind", *more, *required]
    problems = [f"unknown key {key!r}.{nearest(str(key), [*known, 'extends'])}" for key in content if key not in known]
    problems += [f"missing key {name!r}." for name in required if name not in content]
    for name, cls in sections.items():
        problems += _wrong_keys(name, cls, content.get(name, {}))
    if problems:
        raise UserError(f"{path}: " + " ".join(problems))
    try:
        check.integer("version", content["version"], low=1)
        return content, {name: cls(**content[name]) for name, cls in sections.items()}
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _wrong_keys(section: str, cls: type, content: Any) -> list[str]:
    if not isinstance(content, dict):
        return [f"{section} must be a mapping; got {content!r}."]
    known = {item.name: item for item in dataclasses.fields(cls)}
    wrong = [f"unknown key '{section}.{key}'.{nearest(str(key), known)}" for key in content if key not in known]
    required = [n for n, f in known.items() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    return wrong + [f"missing key '{section}.{name}'." for name in required if content and name not in content]


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    if depth > 5:
        raise UserError(f"{path}: more than 5 recipes extend one another. Is there a circle?")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the recipe ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a recipe is a mapping with the keys name, version, model, tokenizer, data, training.")
    parent = content.pop("extends", None)
    if parent is None:
        return content
    try:
        extended = find(str(parent), Path(path).parent)
    except UserError as error:
        raise UserError(f"{path}: extends: {error}") from error
    merged = _read(extended, depth + 1)
    for key, value in content.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged
