"""One pretraining run: model, optimisers, steps, evaluation loss, checkpoints; several workers average their gradients."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from metier import atomic
from metier.errors import Diverged, UserError
from metier.model import load_base
from metier.train import pretrain_data as text
from metier.train.muon import Muon
from metier.train.pretrain_recipe import Recipe, Shape, Training

Report = Callable[[dict[str, Any]], None]


def make_model(plan: Recipe, tokenizer_size: int) -> LlamaForCausalLM:
    """A fresh model of the recipe's shape; the output layers of each block start smaller, as in GPT-2. With `start`: that base's model."""
    if plan.start:
        return _started(plan)
    torch.manual_seed(plan.training.seed)
    shape = plan.model
    config = LlamaConfig(
        vocab_size=tokenizer_size, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads, head_dim=shape.hidden // shape.heads, intermediate_size=shape.mlp,
        max_position_embeddings=shape.context, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.mul_(1 / math.sqrt(2 * shape.layers))
    return model


def _started(plan: Recipe) -> LlamaForCausalLM:
    base, shape = load_base(plan.start, dtype="float32"), plan.model
    config = base.model.config
    theirs = Shape(
        hidden=config.hidden_size, layers=config.num_hidden_layers, heads=config.num_attention_heads, mlp=config.intermediate_size,
        context=config.max_position_embeddings,
    )  # fmt: skip
    if theirs != shape:
        raise UserError(
            f"pretrain {plan.name}: start {plan.start} is of shape {theirs}, the recipe's model of {shape}. Give it the same shape."
        )
    base.model.requires_grad_(True)
    model: LlamaForCausalLM = base.model.train()
    return model


def optimisers(model: LlamaForCausalLM, training: Training) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices inside the blocks and AdamW for the rest; gains and norms do not decay."""
    inner = [p for name, p in model.named_parameters() if training.optimiser == "muon" and p.ndim == 2 and "embed" not in name]
    taken = set(map(id, inner))
    decayed, rest = ([p for p in model.parameters() if id(p) not in taken and (p.ndim >= 2) is big] for big in (True, False))
    groups = [{"params": decayed, "weight_decay": training.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=training.learning_rate, betas=(0.9, training.beta2), fused=True)
    return [adam, Muon(inner, lr=training.learning_rate, weight_decay=training.weight_decay)] if inner else [adam]


def rate(training: Training, progress: float) -> float:
    """Learning rate at a fraction of the run: linear warm-up, cosine decay to final_rate."""
    if progress < training.warmup:
        return training.learning_rate * max(progress, 1e-4) / training.warmup
    fraction = min(1.0, (progress - training.warmup) / (1 - training.warmup))
    return training.learning_rate * (training.final_rate + (1 - training.final_rate) * 0.5 * (1 + math.cos(math.pi * fraction)))


def weighted_loss(model: LlamaForCausalLM, tokens: torch.Tensor, weights: torch.Tensor, bf16: bool) -> torch.Tensor:
    """Mean next-token loss in nats under per-target weights; tokens [B, T + 1], weights [B, T]."""
    return (_losses(model, tokens, bf16) * weights).sum() / weights.sum()


def _losses(model: LlamaForCausalLM, tokens: torch.Tensor, bf16: bool) -> torch.Tensor:
    """Next-token losses [B, T]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits  # [B, T, V]
    targets = tokens[:, 1:]
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def halve(tokens: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same targets in rows of half the length: [B, T + 1] -> [2B, T / 2 + 1]."""
    half = weights.shape[1] // 2
    return torch.cat([tokens[:, : half + 1], tokens[:, half : 2 * half + 1]]), torch.cat([weights[:, :half], weights[:, half : 2 * half]])


class Run:
    """One training run and its state on disk. `keep` is called with each of the recipe's fractions to keep, when it is reached."""

    def __init__(
        self, plan: Recipe, work: Path, blocks: text.Blocks, minutes: float, rank: int = 0, keep: Callable[[Run, float], None] | None = None
    ) -> None:
        self.plan, self.work, self.blocks, self.minutes = plan, work, blocks, minutes
        self.rank, self.workers, self.keep = rank, plan.training.workers, keep
        self.model = make_model(plan, plan.tokenizer.size)
        self.optimisers = optimisers(self.model, plan.training)
        self.step, self.seconds, self.bf16 = 0, 0.0, False
        self.curve: list[dict[str, Any]] = []
        self.rows = max(1, plan.training.batch_tokens // plan.model.context // self.workers)  # of each worker

    @property
    def tokens(self) -> int:
        """Tokens seen so far."""
        return self.step * self.rows * self.workers * self.plan.model.context

    def progress(self) -> float:
        """Fraction of the run that is done, by tokens or time."""
        return min(1.0, max(self.tokens / self.plan.training.tokens, self.seconds / (60 * self.minutes)))

    def go(self, report: Report | None) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        if not self._restore():
            wanted = self.plan.training.precision
            self.bf16 = self._agreed(float(self._bf16_is_faster())) > 0.5 if wanted == "auto" else wanted == "bf16"
        training, saved, evaluated, clock = self.plan.training, self.seconds, self.seconds, time.monotonic()
        recent: list[float] = []
        while (progress := self.progress()) < 1:
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = rate(training, progress)
            now = time.monotonic()
            recent.append(self._one_step(self.seconds + now - clock))
            clock = now
            if self.rank > 0:
                continue
            if self.seconds - evaluated >= 60 * training.eval_minutes or self.progress() >= 1:
                evaluated = self.seconds
                self.curve.append(self._line(recent))
                recent = []
                if report is not None:
                    report(self.curve[-1])
            if self.seconds - saved >= 60 * training.checkpoint_minutes or self.progress() >= 1:
                saved = self.seconds
                self._save()
            self._keep([f for f in training.keep if progress < f <= self.progress()], recent)

    def _keep(self, reached: list[float], recent: list[float]) -> None:
        if self.keep is None:
            return
        for fraction in reached:
            self.curve = self.curve or [self._line(recent)]
            self.keep(self, fraction)

    def _one_step(self, seconds: float) -> float:
        """One update; sets `seconds` to rank 0's clock and returns the mean loss of the workers."""
        first = (self.step * self.workers + self.rank) * self.rows
        tokens, weights = (torch.from_numpy(a) for a in self.blocks.batch(first, self.rows))
        if self.progress() < self.plan.training.halved:
            tokens, weights = halve(tokens, weights)
        loss = weighted_loss(self.model, tokens, weights, self.bf16)
        loss.backward()
        mean = self._share(loss.item(), seconds)
        if not math.isfinite(mean):
            raise Diverged(f"pretrain {self.plan.name}: the loss is {mean} at step {self.step}. Lower training.learning_rate.")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.training.clip)
        for optimiser in self.optimisers:
            optimiser.step()
        self.model.zero_grad()
        self.step += 1
        return mean

    def _share(self, loss: float, seconds: float) -> float:
        """Average gradients and loss over the workers and take over rank 0's clock, in one exchange."""
        if self.workers == 1:
            self.seconds = seconds
            return loss
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        extra = torch.tensor([loss, seconds * self.workers if self.rank == 0 else 0.0])
        together = torch.cat([*(g.flatten() for g in grads), extra])
        torch.distributed.all_reduce(together)
        together /= self.workers
        place = 0
        for g in grads:
            g.copy_(together[place : place + g.numel()].view_as(g))
            place += g.numel()
        self.seconds = together[-1].item()
        return together[-2].item()

    def _agreed(self, value: float) -> float:
        """Rank 0's value, on every worker."""
        shared = torch.tensor([value])
        if self.workers > 1:
            torch.distributed.broadcast(shared, src=0)
        return shared.item()

    def _line(self, recent: list[float]) -> dict[str, Any]:
        every, answers = self.evaluate()
        return {"step": self.step, "tokens": self.tokens, "seconds": round(self.seconds, 1), "rate": self.optimisers[0].param_groups[0]["lr"],
                "train_loss": round(float(np.mean(recent)), 4), "eval_loss": round(every, 4), "eval_answer_loss": round(answers, 4)}  # fmt: skip

    @torch.no_grad()
    def evaluate(self, blocks: int = 32) -> tuple[float, float]:
        """Held-out loss in nats per token: of all tokens, and of answer tokens only."""
        tokens, marks = (torch.from_numpy(a) for a in self.blocks.held_out(blocks))
        losses = torch.cat([_losses(self.model, rows, self.bf16) for rows in tokens.split(self.rows)])
        return losses.mean().item(), ((losses * marks).sum() / marks.sum().clamp(min=1)).item()

    def _bf16_is_faster(self) -> bool:
        """Time a forward and backward pass of each kind, the better of two rounds; one row, because bf16 in software is 45 times slower."""
        tokens, weights = (torch.from_numpy(a) for a in self.blocks.batch(0, 1))
        best: dict[bool, float] = {}
        for _ in range(2):
            for kind in (False, True):
                start = time.perf_counter()
                weighted_loss(self.model, tokens, weights, kind).backward()
                best[kind] = min(best.get(kind, math.inf), time.perf_counter() - start)
        self.model.zero_grad()
        return best[True] < best[False]

    def _save(self) -> None:
        state = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        for n, optimiser in enumerate(self.optimisers):
            for i, moments in optimiser.state_dict()["state"].items():
                state |= {f"optimiser.{n}.{i}.{key}": value for key, value in moments.items()}
        with atomic.folder(self.work / "checkpoint") as folder:
            save_file({name: value.contiguous() for name, value in state.items()}, folder / "state.safetensors")
            recipe = self.plan.digest("model", "tokenizer", "data")
            rest = {"step": self.step, "seconds": self.seconds, "bf16": self.bf16, "curve": self.curve, "recipe": recipe}
            (folder / "state.json").write_text(json.dumps(rest))

    def _restore(self) -> bool:
        folder = self.work / "checkpoint"
        if not folder.exists():
            return False
        rest = json.loads((folder / "state.json").read_text())
        if rest["recipe"] != self.plan.digest("model", "tokenizer", "data"):
            raise UserError(f"{folder}: belongs to another recipe. Start afresh with resume=False, or name another folder.")
        state = load_file(folder / "state.safetensors")
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(state[f"model.{name}"])
        for n, optimiser in enumerate(self.optimisers):
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for name in (name for name in state if name.startswith(f"optimiser.{n}.")):
                _, _, i, key = name.split(".")
                moments.setdefault(int(i), {})[key] = state[name]
            optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        self.step, self.seconds, self.bf16, self.curve = rest["step"], rest["seconds"], rest["bf16"], rest["curve"]
        return True
