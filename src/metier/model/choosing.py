"""Scores of choices by causal models: all of a prompt's in one pass as a tree, or as rows of their own where a model reads no trees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from metier.model.ability import keep
from metier.model.batching import parts
from metier.model.padding import pad_left, pad_right
from metier.model.tree import Tree
from metier.model.voices import Past, Voices


def score_tree(voices: Voices, prompts: list[list[int]], forest: list[Tree], past: Past) -> list[Tensor]:
    """Every prompt's choices as a tree after it, all prompts in one batch."""
    inner, rests = max(len(t.tokens) for t in forest), [p[past.shared :] for p in prompts]
    ids, read = pad_left(rests, voices.pad)
    (rows, width), known = ids.shape, read.bool()
    steps = (read.cumsum(1) - 1).clamp(min=0)
    ids, steps, known = (nn.functional.pad(x, (0, inner), value=v) for x, v in ((ids, voices.pad), (steps, 0), (known, False)))
    sees = torch.eye(width + inner, dtype=torch.bool).repeat(rows, 1, 1)
    prompt = known[:, :width]
    sees[:, :width, :width] |= (prompt.unsqueeze(1) & prompt.unsqueeze(2)).tril()
    alike = all(t is forest[0] for t in forest)
    groups: list[tuple[int | slice, Tree]] = [(slice(None), forest[0])] if alike else list(enumerate(forest))
    for at, t in groups:
        if n := len(t.tokens):
            ids[at, width : width + n] = torch.tensor(t.tokens)
            steps[at, width : width + n] = prompt[at].sum(-1, keepdim=True) - 1 + torch.tensor(t.depths)
            sees[at, width : width + n, :width] = prompt[at].unsqueeze(-2)
            sees[at, width : width + n, width : width + n] = t.visible
            known[at, width : width + n] = True
    logits = voices.read(ids, steps, sees, known, past, count=1 + inner)
    norm = torch.stack([row.float().logsumexp(-1) for row in logits])  # row by row, for the memory
    sums = [t.gather(logits[at][..., t.slots, t.targets].float() - norm[at][..., t.slots]).cpu() for at, t in groups]
    return list(sums[0]) if alike else sums


def score_rows(voices: Voices, prompt: list[int], choices: Sequence[list[int]], past: Past) -> Tensor:
    """Every choice a row of its own after the prompt's keys and values: for models that read no trees."""
    rest = torch.tensor([prompt[past.shared :]], device=voices.device)
    heads, layers = [], []
    for v, voice in enumerate(voices.each):
        cache = past.cache(v, 1) or DynamicCache()
        heads.append(voice.model(input_ids=rest, past_key_values=cache, use_cache=True, **keep(voice.model, 1)).logits[:, -1:])
        layers.append([(layer.keys, layer.values) for layer in cache.layers])
    read, scores = Past(layers, [], 0), []
    for part in parts(choices, 1, voices.vocabulary):
        ids, _ = pad_right(part, 0, voices.device)
        logits = [h.expand(len(part), -1, -1) for h in heads]
        if ids.shape[1] > 1:
            more = [
                w.model(input_ids=ids[:, :-1], past_key_values=read.cache(v, len(part)), use_cache=True).logits
                for v, w in enumerate(voices.each)
            ]
            logits = [torch.cat([h, m], 1) for h, m in zip(logits, more, strict=True)]
        scores.append(_sums(voices.fuse(logits), part))
    return torch.cat(scores)


def score_plain(voices: Voices, prompt: list[int], choices: Sequence[list[int]], _: Past) -> Tensor:
    """Every choice a row of its own with the whole prompt: for models that keep no keys and values."""
    scores = []
    for part in parts(choices, len(prompt), voices.vocabulary):
        ids, _mask = pad_right([prompt + c for c in part], 0, voices.device)
        scores.append(_sums(voices.whole(ids, ids.shape[1] - len(prompt) + 1), part))
    return torch.cat(scores)


def _sums(logits: Tensor, choices: Sequence[list[int]]) -> Tensor:
    """logits (choices, tokens, vocabulary), the first of which predict the first tokens -> summed log-probabilities (choices,)."""
    logprobs = logits.float().log_softmax(-1)
    return torch.stack([logprobs[r, range(len(c)), c].sum() for r, c in enumerate(choices)]).cpu()
