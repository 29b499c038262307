"""Scratch: small decoders trained from nothing within a claim, each kept in the lab's folder once it is done.

The optimiser is the one of `metier pretrain`: Muon for the matrices inside the blocks, AdamW for the rest; warm-up over a
twentieth of the steps, then a cosine down to a tenth.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from metier import atomic
from metier.claims.lab import Lab
from metier.evaluate.stats import Scores
from metier.train.muon import Muon

ROTATION = 10_000.0
Loss = Callable[["Decoder", int], Tensor]  # (model, step) -> what is minimised


class Block(nn.Module):
    """Attention over the past with rotated positions, then a layer of squared ReLUs; each reads a normalised copy and adds to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        """(n, k, width) -> (n, k, width)."""
        n, k, width = x.shape
        q, key, value = self.qkv(self.norm(x)).view(n, k, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each (n, heads, k, head)
        seen = F.scaled_dot_product_attention(_turned(q, turn), _turned(key, turn), value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, k, width))
        return x + self.down(F.relu(self.up(self.norm_mlp(x))).square())


class Decoder(nn.Module):
    """Reads tokens (n, k), or vectors (n, k, reads) if `vectors`, from left to right, and writes (n, k, writes)."""

    key: str = ""  # of its weights, where `trained` made them

    def __init__(self, reads: int, writes: int, *, width: int = 64, layers: int = 2, heads: int = 2, vectors: bool = False) -> None:
        super().__init__()
        self.read = nn.Linear(reads, width) if vectors else nn.Embedding(reads, width)
        blocks = [Block(width, heads) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.write = nn.LayerNorm(width), nn.Linear(width, writes)
        self.turns = width // heads // 2
        for block in blocks:
            for last in (block.out, block.down):  # a deep stream begins no larger than a shallow one
                nn.init.normal_(last.weight, std=last.weight.shape[1] ** -0.5 * (2 * layers) ** -0.5)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer writes from: (n, k, width)."""
        h = self.read(x)
        angle = torch.arange(h.shape[1])[:, None] * ROTATION ** (-torch.arange(self.turns) / self.turns)
        turn = angle.cos(), angle.sin()
        for block in self.blocks:
            h = block(h, turn)
        return self.norm(h)

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.features(x))


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    cos, sin = turn
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def trained(
    lab: Lab, what: str, seed: int, make: Callable[[], Decoder], loss: Loss, *, steps: int, lr: float, after: str = "", **settings: Any
) -> Decoder:
    """A decoder made and trained, or the one that an earlier run left. Its key is `what`, the seed and the settings, so that these must
    tell all on which the weights depend; `after`: the key of the model that `make` starts from."""
    facts = [what, seed, lab.quick, steps, lr, after, sorted(settings.items())]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
    file = lab.out / "scratch" / f"{key}.safetensors"
    torch.manual_seed(seed)
    model = make()
    model.key = key
    if file.exists():
        model.load_state_dict(load_file(file))
    else:
        started = time.perf_counter()
        curve = _train(model, loss, steps, lr)
        seconds = time.perf_counter() - started
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_json(file.with_suffix(".json"), {"what": what, "seed": seed, "steps": steps, "seconds": seconds, "loss": curve})
        part = file.with_suffix(".part")
        save_file(model.state_dict(), part)
        part.replace(file)
    lab.trials.append(key)
    lab.seconds += json.loads(file.with_suffix(".json").read_text())["seconds"]
    lab.tell(f"{what}, seed {seed}")
    return model.eval()


def _train(model: Decoder, loss: Loss, steps: int, lr: float) -> list[float]:
    """Train; the mean loss of each twentieth of the steps."""
    inner = [p for block in model.blocks for p in block.parameters() if p.dim() == 2]
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    optimisers = [torch.optim.AdamW(outer, lr=lr, betas=(0.9, 0.95), weight_decay=0.0), Muon(inner, lr=lr, weight_decay=0.01)]
    losses = []
    model.train()
    for step in range(steps):
        warm = min(1.0, (step + 1) / max(1, steps // 20))
        pace = lr * warm * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = pace
        value = loss(model, step)
        model.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        losses.append(value.item())
    return [float(np.mean(part)) for part in np.array_split(losses, min(20, steps))]


def scored(by_seed: Mapping[int, np.ndarray]) -> Scores:
    """{seed: a score for each item} as scores; the items of every seed are taken to be the same in the same order."""
    values = np.array([by_seed[s] for s in sorted(by_seed)], dtype=float)
    return Scores(tuple(f"{i:05d}" for i in range(values.shape[1])), tuple(sorted(by_seed)), values)
