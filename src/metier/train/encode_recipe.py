"""The recipe of an encoder: a YAML file with `kind: encoder`, read strictly into frozen dataclasses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from metier import check
from metier.errors import UserError
from metier.train.pretrain_recipe import Shape, read

PAIRED = ("facts", "library")  # worlds with pairs()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Which worlds' pairs are learned from; a batch holds pairs of one world."""

    shares: dict[str, float]
    seed: int = 0
    held_out: int = 200  # pairs of each world, its first ones, for the evaluation
    prefix: str = "Query: "  # stands before every second query, as ranking tasks have it

    def __post_init__(self) -> None:
        check.integer("data.seed", self.seed, low=0)
        check.integer("data.held_out", self.held_out, low=2)
        if not self.shares:
            raise UserError("data.shares: name at least one world, for example {library: 1.0}.")
        for name, share in self.shares.items():
            check.one_of("data.shares", name, PAIRED)
            check.number(f"data.shares.{name}", share, above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """AdamW on InfoNCE, with warm-up and linear decay; ends at `steps` or after `minutes`, whichever comes first."""

    steps: int
    minutes: float = 60.0  # of processor time, so that a busy machine does not shorten the run
    batch: int = 64  # pairs; each query is told from all texts of the batch, near misses included
    temperature: float = 0.05
    precision: str = "float32"  # or 'bf16' (autocast)
    learning_rate: float = 1e-3
    warmup: float = 0.1  # fraction of the run
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    threads: int = 1
    checkpoint_minutes: float = 1.0
    eval_minutes: float = 1.0
    keep: list[float] = field(default_factory=list)  # fractions of the run at which the encoder as it then is goes to OUT.checkpoints

    def __post_init__(self) -> None:
        check.integer("training.steps", self.steps, low=1)
        check.integer("training.batch", self.batch, low=2)
        check.integer("training.seed", self.seed, low=0)
        check.integer("training.threads", self.threads, low=1)
        check.one_of("training.precision", self.precision, ("float32", "bf16"))
        for name in ("minutes", "temperature", "learning_rate", "clip", "checkpoint_minutes", "eval_minutes"):
            check.number(f"training.{name}", getattr(self, name), above=0)
        for name in ("warmup", "weight_decay"):
            check.number(f"training.{name}", getattr(self, name), low=0, high=1)
        for fraction in self.keep:
            check.fraction("training.keep", fraction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Everything that decides an encoder. `tokenizer` names a base (embedded, or a folder) whose tokenizer it takes."""

    name: str
    version: int
    tokenizer: str
    model: Shape
    data: Pairs
    training: Contrast

    def digest(self) -> str:
        """12 hex digits of all but how long and how watched the run is."""
        content = dataclasses.asdict(self)
        for key in ("minutes", "threads", "checkpoint_minutes", "eval_minutes", "keep"):
            del content["training"][key]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def load(path: Path) -> Encoder:
    """Read an encoder's recipe. Unknown keys are errors, all reported at once."""
    content, parts = read(path, {"model": Shape, "data": Pairs, "training": Contrast}, ("tokenizer",))
    if not content.get("tokenizer"):
        raise UserError(f"{path}: missing key 'tokenizer'. Name the base whose tokenizer it takes, for example metier-tiny.")
    return Encoder(name=str(content["name"]), version=content["version"], tokenizer=str(content["tokenizer"]), **parts)
