"""One contrastive run: the encoder, its batches of pairs, steps, held-out accuracy, checkpoints.

Formula: loss = mean over i of -log softmax_j(cos(q_i, d_j) / temperature)[i], j over all fitting texts and near misses of the batch
         (InfoNCE: van den Oord et al. 2018, arXiv:1807.03748; in-batch negatives: Karpukhin et al. 2020, arXiv:2004.04906).
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import BertConfig, BertModel

from metier import atomic, worlds
from metier.errors import Diverged, UserError
from metier.model.padding import pad_right
from metier.train.encode_recipe import Contrast, Encoder, Pairs

Pair = tuple[str, str, str]  # query, fitting text, near miss
Encode = Callable[[str], list[int]]  # a text's token ids
Report = Callable[[dict[str, Any]], None]


def make_model(plan: Encoder, vocabulary: int) -> BertModel:
    """A fresh BERT of the recipe's shape, without dropout (no text is read twice) and without a pooler."""
    torch.manual_seed(plan.training.seed)
    shape = plan.model
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        intermediate_size=shape.mlp, max_position_embeddings=shape.context, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


class Stream:
    """The recipe's pairs: first those held out of each world, then batches, each of one world drawn by the shares."""

    def __init__(self, data: Pairs, batch: int) -> None:
        self.data, self.batch = data, batch
        self.sources: dict[str, Iterator[Pair]] = {name: worlds.world(name, seed=data.seed).pairs() for name in data.shares}  # type: ignore[attr-defined]
        self.held_out = {name: list(itertools.islice(source, data.held_out)) for name, source in self.sources.items()}
        self.rng = random.Random(f"batches:{data.seed}")

    def next(self) -> list[Pair]:
        """The next batch; every second query has the prefix."""
        name = self.rng.choices(list(self.data.shares), list(self.data.shares.values()))[0]
        drawn = itertools.islice(self.sources[name], self.batch)
        return [(self.data.prefix * (i % 2) + query, right, wrong) for i, (query, right, wrong) in enumerate(drawn)]

    def skip(self, batches: int) -> None:
        """Go on as if so many batches had been taken."""
        for _ in range(batches):
            self.next()


def rate(training: Contrast, progress: float) -> float:
    """Learning rate at a fraction of the run: linear warm-up, then linear decay to 0."""
    rising = progress / training.warmup if training.warmup else 1.0
    return training.learning_rate * max(1e-3, min(rising, (1 - progress) / max(1e-9, 1 - training.warmup)))


def embed(model: BertModel, rows: Sequence[list[int]], bf16: bool = False) -> Tensor:
    """Normalised mean of the last hidden states: (texts, hidden)."""
    ids, mask = pad_right(rows, 0, model.device)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(-1).float()
    return normalize((hidden.float() * weight).sum(1) / weight.sum(1), dim=-1)


def contrast(queries: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """InfoNCE; queries (B, hidden), texts (B or 2 B, hidden) of which the i-th fits the i-th query, all normalised."""
    return cross_entropy(queries @ texts.T / temperature, torch.arange(len(queries)))


class Run:
    """One training run and its state on disk. `keep` is called with each of the recipe's fractions to keep, when it is reached."""

    def __init__(self, plan: Encoder, work: Path, encode: Encode, vocabulary: int, keep: Callable[[Run, float], None]) -> None:
        self.plan, self.work, self.encode, self.keep = plan, work, encode, keep
        self.model = make_model(plan, vocabulary)
        self.stream = Stream(plan.data, plan.training.batch)
        groups = [{"params": [p for p in self.model.parameters() if (p.ndim >= 2) is big],
                   "weight_decay": plan.training.weight_decay * big} for big in (True, False)]  # fmt: skip
        self.optimiser = torch.optim.AdamW(groups, lr=plan.training.learning_rate, betas=(0.9, 0.98), fused=True)
        self.step, self.seconds, self.tokens = 0, 0.0, 0
        self.curve: list[dict[str, Any]] = []

    def go(self, minutes: float, report: Report) -> None:
        """Train to the end, from the last checkpoint if there is one."""
        self._restore()
        training, clock, losses = self.plan.training, time.process_time(), list[float]()
        saved = evaluated = self.seconds
        while (progress := self.progress(minutes)) < 1:
            losses.append(self._one_step(rate(training, progress)))
            now = time.process_time()
            self.seconds, clock = self.seconds + now - clock, now
            done = self.progress(minutes)
            if done >= 1 or self.seconds - evaluated >= 60 * training.eval_minutes:
                evaluated = self.seconds
                self.curve.append(self._line(losses))
                losses = []
                report(self.curve[-1])
            if done >= 1 or self.seconds - saved >= 60 * training.checkpoint_minutes:
                saved = self.seconds
                self._save()
            for fraction in (f for f in training.keep if progress < f <= done):
                self.keep(self, fraction)

    def progress(self, minutes: float) -> float:
        """Fraction of the run that is done, by steps or time."""
        return min(1.0, max(self.step / self.plan.training.steps, self.seconds / (60 * minutes)))

    def _one_step(self, learning_rate: float) -> float:
        training = self.plan.training
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        queries, right, wrong = zip(*self.stream.next(), strict=True)
        texts = embed(self.model, self._ids((*right, *wrong)), training.precision == "bf16")
        loss = contrast(embed(self.model, self._ids(queries), training.precision == "bf16"), texts, training.temperature)
        loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(loss.item()):
            raise Diverged(f"pretrain {self.plan.name}: the loss is {loss.item()} at step {self.step}. Lower training.learning_rate.")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        return loss.item()

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        rows = [self.encode(text)[: self.plan.model.context] for text in texts]
        self.tokens += sum(map(len, rows))
        return rows

    def _line(self, losses: list[float]) -> dict[str, Any]:
        found = {f"found_{name}": round(self.accuracy(pairs), 4) for name, pairs in self.stream.held_out.items()}
        return {"step": self.step, "pairs": self.step * self.plan.training.batch, "tokens": self.tokens, "seconds": round(self.seconds, 1),
                "rate": self.optimiser.param_groups[0]["lr"], "train_loss": round(sum(losses) / len(losses), 4), **found}  # fmt: skip

    @torch.no_grad()
    def accuracy(self, pairs: Sequence[Pair]) -> float:
        """Share of queries whose fitting text is nearest, among all fitting texts and near misses of the pairs."""
        queries, right, wrong = ([self.encode(text)[: self.plan.model.context] for text in texts] for texts in zip(*pairs, strict=True))
        near = embed(self.model, queries) @ embed(self.model, [*right, *wrong]).T
        return (near.argmax(1) == torch.arange(len(pairs))).float().mean().item()

    def _save(self) -> None:
        state = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        for i, moments in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{i}.{key}": value for key, value in moments.items()}
        rest = {"step": self.step, "seconds": self.seconds, "tokens": self.tokens, "curve": self.curve, "recipe": self.plan.digest()}
        with atomic.folder(self.work / "checkpoint") as folder:
            save_file({name: value.contiguous() for name, value in state.items()}, folder / "state.safetensors")
            (folder / "state.json").write_text(json.dumps(rest))

    def _restore(self) -> None:
        folder = self.work / "checkpoint"
        if not folder.exists():
            return
        rest = json.loads((folder / "state.json").read_text())
        if rest["recipe"] != self.plan.digest():
            raise UserError(f"{folder}: belongs to another recipe. Start afresh with resume=False, or name another folder.")
        state = load_file(folder / "state.safetensors")
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(state[f"model.{name}"])
        moments: dict[int, dict[str, Tensor]] = {}
        for _, i, key in (name.split(".") for name in state if name.startswith("optimiser.")):
            moments.setdefault(int(i), {})[key] = state[f"optimiser.{i}.{key}"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.step, self.seconds, self.tokens, self.curve = rest["step"], rest["seconds"], rest["tokens"], rest["curve"]
        self.stream.skip(self.step)
