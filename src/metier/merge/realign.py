"""Realign: give an expert back the few weights of the aligned model that its lost behaviour hangs on, and take back what hurts its skill.

Paper:       Yang, Tao, Chen & Xu 2025, arXiv:2504.09757, section 5 (recovery, Algorithm 1, and rollback, Algorithm 2).
Formula:     h(W, X) = mean over prompts x in X of the hidden state of the last token after the layers up to `depth`;
             step: g = d(-cos(h(W, X_safety), h(W0, X_safety))) / dW; of the entries with (W - W0) g > 0, the rate * n with the largest
             |g| become those of W0; rollback, of these: g' = d(-cos(h(W, X_task), h(W_1, X_task))) / dW; of the entries with
             (W - W_1) g' > 0, the fraction `rollback` with the largest |g'| become those of W_1 again. W0 aligned, W_1 the expert.
             Rollback is used where the score on the task's dev split, after `warmup` steps without it, is below (1 - drop) of the expert's;
             then it starts anew. Kept: of the states looked at, the one with the best safety score on dev whose task score is not below that.
Shapes:      per tensor of the change, masks of its shape; h (hidden,).
Units:       rate, rollback, drop, depth, fractions; steps, warmup, prompts, counts.
Randomness:  none: the first prompts of the train splits, in batches in their order.
Cost:        a forward and a backward pass through `depth` of the layers for each prompt and step; answers on both dev splits at every look.
Deviations:  exactly `rate * n` entries are chosen in a step (ties by lowest index), the authors take those above a threshold. They never clear
             gradients between steps of recovery; here each step has its own. States are looked at every fifth step, as theirs; the score
             is the safety task's own on dev, theirs a judge's. Norms and embeddings are left as the expert has them, as theirs. peft,
             mergekit: no such method. No setting is searched: the task's dev score, by which a search chooses, is best where least is repaired.
Errors:      UserError where a dev split is missing, or the change touches no layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metier import check
from metier.delta import Delta, Dense
from metier.delta.entry import Entry
from metier.delta.parts.scale import depth_of
from metier.delta.parts.trim import LAYER
from metier.errors import UserError
from metier.evaluate.measuring import measure
from metier.merge._experts import open_experts
from metier.merge._largest import largest
from metier.merge._live import computed, stacks
from metier.method import About
from metier.model import Specialist, WeightChange
from metier.model.padding import pad_right
from metier.task import Task
from metier.task.load import load_task
from metier.train import Run

ABOUT = About(
    place="weights",
    papers=(222,),
    families=("causal",),
    reads=("experts", "safety"),
    effort=20.0,
    experts=(1, 1),
)
LOOK = 5  # steps between looks
SCORED = 100  # examples of dev that are answered at a look
Masks = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of realignment."""

    experts: tuple[str, ...]
    """The one expert that is repaired: folder of a delta, specialist, PEFT adapter or full checkpoint."""
    safety: str
    """Task whose behaviour the base has and the expert lost: a file, 'world:NAME/TASK' or 'hf:NAME'."""
    rate: float = 0.01
    """Fraction of the considered entries that are restored in a step."""
    steps: int = 20
    """Steps of recovery."""
    warmup: int = 5
    """Steps after which it is decided whether rollback is needed."""
    rollback: float = 0.2
    """Fraction of a step's restored entries, among those that hurt the task, that are taken back."""
    drop: float = 0.05
    """Fraction of the expert's score on the task that may be lost."""
    depth: float = 0.67
    """Fraction of the layers, from the first, that are considered."""
    prompts: int = 64
    """Prompts of either task."""
    batch_size: int = 16
    """Prompts at once."""

    def __post_init__(self) -> None:
        if len(self.experts) != 1:
            raise UserError(f"experts: exactly one expert is repaired; got {len(self.experts)}.")
        if not self.safety:
            raise UserError("safety: none given. Name the task whose behaviour is to be restored, such as 'world:instructions/refuse'.")
        for name in ("rate", "depth"):
            check.fraction(name, getattr(self, name))
        for name in ("rollback", "drop"):
            check.number(name, getattr(self, name), low=0, high=1)
        for name in ("steps", "warmup", "prompts", "batch_size"):
            check.integer(name, getattr(self, name), low=1)


def realign(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Restore what the base's behaviour hangs on, within the loss of skill that is allowed."""
    bodies, _ = open_experts(settings.experts, start)
    return _Repair(start, task, load_task(settings.safety).sealed(), bodies[0], settings, run.seed).go()


class _State(NamedTuple):
    """What is restored: masks, True = as in the base; the scores on dev of the safety task and of the task."""

    restored: dict[str, Tensor]
    safety: float
    skill: float


class _Repair:
    def __init__(self, start: Specialist, task: Task, safety: Task, expert: Delta, settings: Settings, seed: int) -> None:
        if not task.dev or not safety.dev:
            raise UserError(
                f"realign: {(task if not task.dev else safety).name} has no dev split, on which it is seen what is lost. Give one."
            )
        self.start, self.task, self.safety, self.expert, self.settings, self.seed = start, task, safety, expert, settings, seed
        self.layers = start.base.model.config.get_text_config().num_hidden_layers
        self.upto = max(1, math.floor(settings.depth * self.layers))
        considered = [n for n in expert if (d := depth_of(n)) is not None and d < self.upto and "norm" not in n.lower()]
        if not considered:
            raise UserError(f"realign: the expert changes nothing in the first {self.upto} layers. Use a larger depth.")
        self.change = {n: s[0] for n, s in stacks([expert], start.base.device).items()}
        self.considered = considered
        self.last = f"{LAYER.match(considered[0])[0].rpartition('.')[0]}.{self.upto - 1}"  # type: ignore[index]
        self.count = math.ceil(settings.rate * sum(self.change[n].numel() for n in considered))
        self.harmful, self.benign = self._prompts(safety), self._prompts(task)

    def go(self) -> WeightChange:
        nothing = {n: torch.zeros_like(self.change[n], dtype=torch.bool) for n in self.considered}
        with self.start.attached():
            self.aligned = self._direction(self.harmful, {n: torch.ones_like(m) for n, m in nothing.items()}, whole=False)
            self.skilled = self._direction(self.benign, nothing)
        tuned = self._looked(nothing)
        least = tuned.skill * (1 - self.settings.drop)
        warm = self._looked(self._steps(nothing, self.settings.warmup, rollback=False)[-1])
        rollback = warm.skill < least
        restored, done = (nothing, 0) if rollback else (warm.restored, self.settings.warmup)
        states = [tuned, warm]
        masks = self._steps(restored, self.settings.steps - done, rollback=rollback)
        for i, mask in enumerate(masks, start=done + 1):
            if i % LOOK == 0 or i == self.settings.steps:
                states.append(self._looked(mask))
        best = max((s for s in states if s.skill >= least), key=lambda s: s.safety)
        told: dict[str, Any] = {"rollback": rollback, "restored": sum(int(m.sum()) for m in best.restored.values())}
        told |= {"safety": [tuned.safety, best.safety], "skill": [tuned.skill, best.skill]}
        return WeightChange(self._delta(best.restored), provenance={"realign": told})

    def _steps(self, restored: dict[str, Tensor], steps: int, *, rollback: bool) -> list[dict[str, Tensor]]:
        """What is restored after each step."""
        found = []
        for _ in range(max(0, steps)):
            with self.start.attached():
                restored = self._step(restored, rollback)
            found.append(restored)
        return found

    def _step(self, restored: dict[str, Tensor], rollback: bool) -> dict[str, Tensor]:
        slopes, now = self._slopes(self.harmful, self.aligned, restored)
        new = chosen({n: now[n] * g for n, g in slopes.items()}, slopes, self.count)
        restored = {n: m | new[n] for n, m in restored.items()}
        if not rollback:
            return restored
        slopes, _ = self._slopes(self.benign, self.skilled, restored)
        gain = {n: torch.where(new[n], -self.change[n] * g, 0.0) for n, g in slopes.items()}  # at what is restored, W - W_1 is - change
        hurt = sum(int((g > 0).sum()) for g in gain.values())
        back = chosen(gain, slopes, math.ceil(self.settings.rollback * hurt))
        return {n: m & ~back[n] for n, m in restored.items()}

    def _slopes(self, prompts: Sequence[list[int]], wanted: Tensor, restored: Masks) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(d(-cos) / dW of the considered tensors, summed over batches; their change as it stands)."""
        live = {n: self._now(n, restored).requires_grad_(n in restored) for n in self.change}
        size = self.settings.batch_size
        for i in range(0, len(prompts), size):
            with torch.enable_grad(), computed(self.start.base.model, list(live), live.__getitem__):
                loss = -nn.functional.cosine_similarity(self._hidden(prompts[i : i + size]).mean(0), wanted, dim=0)
            loss.backward()
        slopes = {n: torch.zeros_like(live[n]) if live[n].grad is None else live[n].grad for n in self.considered}
        return slopes, {n: live[n].detach() for n in self.considered}  # type: ignore[return-value]

    @torch.no_grad()
    def _direction(self, prompts: Sequence[list[int]], restored: Masks, *, whole: bool = True) -> Tensor:
        """h of the expert with some entries restored; `whole=False`: of the base itself."""
        size, change = self.settings.batch_size, self.change if whole else {}
        with computed(self.start.base.model, list(change), lambda n: self._now(n, restored)):
            return torch.cat([self._hidden(prompts[i : i + size]) for i in range(0, len(prompts), size)]).mean(0)

    def _hidden(self, prompts: Sequence[list[int]]) -> Tensor:
        """Hidden states of the prompts' last tokens after the considered layers: (prompts, hidden)."""
        base, states = self.start.base, []
        ids, mask = pad_right(prompts, base.tokenizer.pad_token_id or 0, base.device)
        hook = base.model.get_submodule(self.last).register_forward_hook(lambda _, given, out: states.append(out))
        try:
            base.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        finally:
            hook.remove()
        state = states[0][0] if isinstance(states[0], tuple) else states[0]
        return state[torch.arange(len(ids)), mask.sum(1) - 1].float()

    def _now(self, name: str, restored: Masks) -> Tensor:
        change = self.change[name].clone()
        return change.masked_fill_(restored[name], 0.0) if name in restored else change

    def _looked(self, restored: dict[str, Tensor]) -> _State:
        specialist = self.start.then(WeightChange(self._delta(restored)))
        scores = []
        for task in (self.safety, self.task):
            records = measure(specialist, task, split="dev", seed=self.seed, limit=SCORED)
            scores.append(sum(r.score for r in records) / len(records))
        return _State(restored, *scores)

    def _delta(self, restored: Masks) -> Delta:
        """The expert's change without what is restored."""
        entries: dict[str, Entry] = {
            n: Dense(self._now(n, restored).cpu()) if n in restored and bool(restored[n].any()) else self.expert[n] for n in self.expert
        }
        return Delta(entries, self.start.base.fingerprint).read()

    def _prompts(self, task: Task) -> list[list[int]]:
        examples = list(task.train)[: self.settings.prompts]
        if not examples:
            raise UserError(f"realign: task {task.name} has no train split, whose prompts are needed. Give one.")
        base, found = self.start.base, []
        for example in examples:
            ids = base.encode_prompt(self.start.prompt(task, example))[1]
            found.append(base.fits(ids, 0, f"task {task.name}, example {example.id}"))
        return found


def chosen(gain: Mapping[str, Tensor], slopes: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks of the `count` entries with the largest |slope| among those with gain > 0, all of these where there are fewer."""
    sizes = {n: torch.where(gain[n] > 0, s.abs(), -1.0) for n, s in slopes.items()}
    return {n: m & (gain[n] > 0) for n, m in largest(sizes, count).items()}
