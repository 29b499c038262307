"""Prompt tuning: a few embeddings, read before every prompt, are learnt; the model is frozen.

Paper:       Lester et al. 2021, arXiv:2104.08691, section 2.
Formula:     P = argmax_P sum log p(y | [P; E(x)]), E the embedding of the frozen model.
Shapes:      P (length, hidden); E(x) (tokens, hidden).
Units:       length, tokens; lr, step size of AdamW at its peak.
Randomness:  which tokens P starts from, and the order of examples, by the run's seed.
Cost:        4 N FLOPs a token (no weight gradients), and `length` more tokens in every row; length x hidden numbers stored.
Deviations:  a decoder-only model (the paper: T5); AdamW with decay (the paper: Adafactor at a constant 0.3); 'vocabulary'
             samples the tokens that are most frequent in the task's own prompts (the paper: in the vocabulary's order);
             a label of several tokens starts as their mean, as in the paper.
Errors:      UserError where no room is left for an example beside the soft prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from metier import check
from metier.method import About
from metier.model import InputChange, Specialist
from metier.task import Task
from metier.train import Run, Trainable, fit

ABOUT = About(place="in", families=("causal",), trains=True, search={"lr": (3e-3, 1e-2, 3e-2)})
FREQUENT = 5000  # the vocabulary that 'vocabulary' samples from, as in the paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of prompt tuning."""

    length: int = 16
    """Length of the soft prompt."""
    init: Literal["labels", "vocabulary"] = "labels"
    """What it starts from: embeddings of the labels' words and, where there are no more, of frequent words; or of these only."""
    lr: float = 1e-2
    """Peak learning rate of AdamW."""
    batch_size: int = 16
    """Examples a step."""

    def __post_init__(self) -> None:
        check.integer("length", self.length, low=1)
        check.one_of("init", self.init, ("labels", "vocabulary"))
        check.number("lr", self.lr, above=0)
        check.integer("batch_size", self.batch_size, low=1)


@dataclass(frozen=True)
class SoftPrompt(InputChange):
    """Embeddings read before everything else: (length, hidden)."""

    vectors: Tensor = field(compare=False)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def prefix(self) -> Tensor:
        """See `InputChange.prefix`."""
        return self.vectors

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """See `Change.state`."""
        return {}, {"vectors": self.vectors}

    @classmethod
    def from_state(cls, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """See `Change.from_state`."""
        return cls(tensors["vectors"])


def prompt_tuning(start: Specialist, task: Task, settings: Settings, run: Run) -> SoftPrompt:
    """Train a soft prompt on the task."""
    with start.attached():
        vectors = nn.Parameter(start_vectors(start, task, settings.length, settings.init, run.seed))

        def change() -> SoftPrompt:
            return SoftPrompt(vectors.detach().cpu().clone())

        what = Trainable(start, task, {"prompt": vectors}, change, prefix=vectors)
        return fit(what, run, lr=settings.lr, batch_size=settings.batch_size).change  # type: ignore[return-value]


@torch.no_grad()
def start_vectors(start: Specialist, task: Task, length: int, init: str, seed: int) -> Tensor:
    """What a soft prompt starts from: (length, hidden), float32, on the base's device."""
    base = start.base
    embed = base.model.get_input_embeddings()

    def mean_of(ids: list[int]) -> Tensor:
        return embed(torch.tensor(ids, device=base.device)).float().mean(0)

    words = [ids for label in task.choices if (ids := base.encode(label, special=False))] if init == "labels" else []
    counts = Counter(t for e in task.train for t in base.encode(start.prompt(task, e).query, special=False))
    ordered = [t for t, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))] or list(range(len(base.tokenizer)))
    frequent = [t for t in ordered if t not in base.tokenizer.all_special_ids][:FREQUENT]
    generator = torch.Generator().manual_seed(seed)
    while len(words) < length:  # without replacement, until every frequent token has been used
        words += [[frequent[i]] for i in torch.randperm(len(frequent), generator=generator).tolist()]
    return torch.stack([mean_of(ids) for ids in words[:length]])
