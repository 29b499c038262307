"""Pretrain a small base by a recipe: tokenizer, packed text, AdamW; safe to kill, resumes where it was."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from metier.errors import Diverged, UserError
from metier.train import pretrain_data as text
from metier.train.muon import Muon
from metier.train.pretrain_recipe import Recipe, Training, load

RECIPES = Path(__file__).parent / "recipes"
Report = Callable[[dict[str, Any]], None]


def pretrain(recipe: Path, out: Path, *, minutes: float | None = None, resume: bool = True, report: Report | None = None) -> Path:
    """Train the recipe's base and write it to `out` as a Hugging Face folder with CARD.md and curve.jsonl.

    `recipe` is a file or the name of a packaged one (tiny, nano). `minutes` overrides the recipe's time limit; the
    learning rate decays with whichever of time and tokens is further on, so a run limited by tokens alone is
    reproducible and one limited by time is not. Work in progress lies beside `out` ('<out>.work', packed text in
    'text-<hash>'); with `resume` a killed run goes on from its last checkpoint. `report` gets each line of the curve.
    """
    plan = load(_find(recipe))
    out, work = Path(out), Path(f"{out}.work")
    if out.exists() and any(out.iterdir()) and not (out / "curve.jsonl").exists():
        raise UserError(f"{out}: exists and is not a pretrained base. Name another folder.")
    if not resume and work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    packed, tokenizer = prepare(plan, out.parent)
    start = _Start(plan, packed, work, minutes or plan.training.minutes, work / f"meeting-{os.getpid()}")
    context = torch.multiprocessing.get_context("spawn")
    others = [context.Process(target=_work, args=(start, rank), daemon=True) for rank in range(1, plan.training.workers)]
    for process in others:
        process.start()
    run = _work(start, 0, report or (lambda line: None))
    for process in others:
        process.join()
    start.meeting.unlink(missing_ok=True)
    export(run.model, tokenizer, plan, run.curve, out)
    return out


def prepare(plan: Recipe, folder: Path) -> tuple[Path, Tokenizer]:
    """The packed text and tokenizer of a recipe, made once per folder and shared by recipes with the same text."""
    home = folder / f"text-{plan.digest('tokenizer', 'data')}"
    home.mkdir(parents=True, exist_ok=True)
    packed, vocabulary = home / "tokens.bin", home / "tokenizer.json"
    with open(home / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not vocabulary.exists():
            text.train_tokenizer(plan.tokenizer, plan.data).save(str(home / "tokenizer.part"))
            os.replace(home / "tokenizer.part", vocabulary)
        tokenizer = Tokenizer.from_file(str(vocabulary))
        if not packed.exists():
            text.pack(tokenizer, plan.data, packed)
    return packed, tokenizer


def make_model(plan: Recipe, tokenizer_size: int) -> LlamaForCausalLM:
    """A fresh model of the recipe's shape; the output layers of each block start smaller, as in GPT-2."""
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


def _halve(tokens: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same targets in rows of half the length: [B, T + 1] -> [2B, T / 2 + 1]."""
    half = weights.shape[1] // 2
    return torch.cat([tokens[:, : half + 1], tokens[:, half : 2 * half + 1]]), torch.cat([weights[:, :half], weights[:, half : 2 * half]])


class _Start(NamedTuple):
    """What every worker needs to begin."""

    plan: Recipe
    packed: Path
    work: Path
    minutes: float
    meeting: Path


def _work(start: _Start, rank: int, report: Report | None = None) -> _Run:
    """One worker of a run: the same model as the others, its own rows, gradients averaged; rank 0 keeps clock, curve and checkpoints."""
    plan = start.plan
    torch.set_num_threads(plan.training.threads)
    if plan.training.workers > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{start.meeting}", rank=rank, world_size=plan.training.workers)
    try:
        blocks = text.Blocks(start.packed, plan.data, plan.model.context, plan.training.seed)
        run = _Run(plan, start.work, blocks, start.minutes, rank)
        run.go(report)
    finally:
        if plan.training.workers > 1:
            torch.distributed.destroy_process_group()
    return run


class _Run:
    """One training run and its state on disk."""

    def __init__(self, plan: Recipe, work: Path, blocks: text.Blocks, minutes: float, rank: int = 0) -> None:
        self.plan, self.work, self.blocks, self.minutes = plan, work, blocks, minutes
        self.rank, self.workers = rank, plan.training.workers
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
            self.bf16 = self._agreed(float(self._bf16_is_faster())) > 0.5
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

    def _one_step(self, seconds: float) -> float:
        """One update; sets `seconds` to rank 0's clock and returns the mean loss of the workers."""
        first = (self.step * self.workers + self.rank) * self.rows
        tokens, weights = (torch.from_numpy(a) for a in self.blocks.batch(first, self.rows))
        if self.progress() < self.plan.training.halved:
            tokens, weights = _halve(tokens, weights)
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
        """Time two forward and backward passes of each kind, the better of two rounds."""
        tokens, weights = (torch.from_numpy(a) for a in self.blocks.batch(0, self.rows))
        best = {}
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
        with _atomic_folder(self.work / "checkpoint") as folder:
            save_file({name: value.contiguous() for name, value in state.items()}, folder / "state.safetensors")
            rest = {"step": self.step, "seconds": self.seconds, "bf16": self.bf16, "curve": self.curve, "recipe": self.plan.digest("model", "tokenizer", "data")}
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


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, plan: Recipe, curve: list[dict[str, Any]], out: Path) -> None:
    """Write a Hugging Face folder in bf16, with the card and the curve; an older folder is replaced in one rename."""
    config = json.loads(model.config.to_json_string()) | {"dtype": "bfloat16"}
    weights = LlamaForCausalLM(LlamaConfig(**config)).to(torch.bfloat16)
    weights.load_state_dict({name: value.to(torch.bfloat16) for name, value in model.state_dict().items()})
    weights.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=text.PAD, bos_token=text.BOS, eos_token=text.EOS, chat_template=text.CHAT,
                                   model_max_length=plan.model.context, padding_side="left", clean_up_tokenization_spaces=False)  # fmt: skip
    fast.add_special_tokens({"additional_special_tokens": list(text.SPECIAL[3:])})
    with _atomic_folder(Path(out)) as folder:
        weights.save_pretrained(folder)
        fast.save_pretrained(folder)
        (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
        (folder / "CARD.md").write_text(card(model, plan, curve))


def card(model: LlamaForCausalLM, plan: Recipe, curve: list[dict[str, Any]]) -> str:
    """The model card: recipe, cost, curve. Measurements are added by benchmarks/base_card.py."""
    import dataclasses

    import yaml

    count, last = sum(p.numel() for p in model.parameters()), curve[-1]
    lines = [f"# {plan.name}", "", f"A Llama-architecture decoder with {count:,} parameters, for experiments on generated worlds. Apache-2.0.", "",
             f"Trained on {last['tokens']:,} tokens ({plan.data.tokens:,} distinct) in {last['seconds'] / 60:.1f} minutes on "
             f"{plan.training.threads} CPU threads; final held-out loss {last['eval_loss']} nats per token ({last['eval_answer_loss']} on answers).",
             "", "## Recipe", "", "```yaml", yaml.safe_dump(dataclasses.asdict(plan), sort_keys=False).strip(), "```", "", "## Curve", "",
             "| tokens | minutes | train loss (weighted) | held-out loss | on answers |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [f"| {c['tokens']:,} | {c['seconds'] / 60:.1f} | {c['train_loss']} | {c['eval_loss']} | {c['eval_answer_loss']} |" for c in curve]
    return "\n".join(lines) + "\n"


def _find(recipe: Path) -> Path:
    path = Path(recipe)
    if path.exists():
        return path
    packaged = RECIPES / f"{path.name}.yaml"
    if packaged.exists():
        return packaged
    known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
    raise UserError(f"{recipe}: no such recipe. Packaged recipes: {known}.")


@contextlib.contextmanager
def _atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when all is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for stale in (fresh, old):
        shutil.rmtree(stale, ignore_errors=True)
    fresh.mkdir()
    yield fresh
    if target.exists():
        os.replace(target, old)
    os.replace(fresh, target)
    shutil.rmtree(old, ignore_errors=True)
