"""Reading and writing with causal language models: choices scored in one pass, cached generation, embeddings.

What prompts share is computed once: the soft prefix and the tokens that all prompts of a call begin with are run
once and their keys and values shared by every batch. Prompts are sorted by length; a batch holds at most
`TOKENS_PER_BATCH` tokens. Several models may speak together ('voices'); their logits are fused before anything is
read from them. Where a model cannot do what this takes (`metier.model.ability`), the plain way is gone: choices as rows
of their own, or no cache at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from metier.model.ability import ability, attention_mask, keep, takes_positions, vocabulary
from metier.model.answers import Ends, Generated, stream, write
from metier.model.padding import pad_left, pad_right
from metier.model.tree import Tree, tree

TOKENS_PER_BATCH = 8192
LOGITS_PER_BATCH = 64_000_000
SHARE_AT_LEAST = 8


@dataclass(frozen=True)
class Voice:
    """A model that speaks: `prefix` (n, hidden) is read before everything else; `attach` gives its with-block."""

    model: Any
    prefix: Tensor | None = None
    attach: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


@dataclass
class _Past:
    """Keys and values of what a batch has in common, per voice, and how long that is."""

    layers: list[list[tuple[Tensor, Tensor]]]
    lengths: list[int]
    shared: int

    def cache(self, voice: int, rows: int) -> DynamicCache | None:
        if not self.layers[voice]:
            return None
        return DynamicCache([(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self.layers[voice]])


class CausalReader:
    """Scores and writes with one or more causal models of the same vocabulary; `fuse` makes one logits tensor of theirs."""

    def __init__(self, voices: Sequence[Voice], tokenizer: Any, fuse: Callable[[Sequence[Tensor]], Tensor] | None = None) -> None:
        self.voices = list(voices)
        self.tokenizer = tokenizer
        self.fuse = fuse or (lambda logits: logits[0])
        self.device = next(voices[0].model.parameters()).device

    @torch.inference_mode()
    def choose(self, prompts: Sequence[list[int]], choices: Sequence[Sequence[list[int]]]) -> list[Tensor]:
        """Sum of token log-probabilities of every choice of every prompt: a (choices,) float32 tensor per prompt."""
        forest = [tree(c) for c in choices]
        out: list[Tensor] = [torch.empty(0)] * len(prompts)
        longest = max((len(p) + max(map(len, c)) for p, c in zip(prompts, choices, strict=True)), default=0)
        with self._attached():
            past = self._share(prompts)
            if self._reads_trees(longest + max(past.lengths) - past.shared):
                for rows in self._batches([len(p) - past.shared for p in prompts], [len(t.tokens) for t in forest]):
                    results = self._score_tree([prompts[i] for i in rows], [forest[i] for i in rows], past)
                    for i, scores in zip(rows, results, strict=True):
                        out[i] = scores
            else:
                score = self._score_rows if self._caches() else self._score_plain
                out = [score(prompt, listed, past) for prompt, listed in zip(prompts, choices, strict=True)]
        return out

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[list[int]], *, max_new_tokens: int, stop: Sequence[str] = (), temperature: float = 0.0,
        seeds: Sequence[str] | None = None,
    ) -> list[Generated]:  # fmt: skip
        """An answer for every prompt, greedy at temperature 0, else sampled with a stream of its own per seed text.

        A row's samples depend on its seed alone, not on the batch it is in.
        """
        out: list[Generated | None] = [None] * len(prompts)
        with self._attached():
            past = self._share(prompts)
            answer = self._write if self._caches() else self._write_plain
            longest = max(map(len, prompts), default=0) + max_new_tokens + max(past.lengths) - past.shared
            even = max(past.lengths) > 0 and not self._reads_trees(longest)
            for rows in self._batches(
                [len(p) - past.shared for p in prompts], [max_new_tokens] * len(prompts), every_token=False, even=even
            ):
                streams = [stream(seeds[i]) for i in rows] if seeds and temperature > 0 else None
                found = answer([prompts[i] for i in rows], past, max_new_tokens, stop, temperature, streams)
                for i, text in zip(rows, found, strict=True):
                    out[i] = text
        return [a for a in out if a is not None]

    @torch.inference_mode()
    def embed(self, texts: Sequence[list[int]]) -> Tensor:
        """Mean of the last hidden states over a text's tokens: (texts, hidden), float32."""
        out = torch.zeros(len(texts), self.voices[0].model.get_input_embeddings().weight.shape[1])
        with self._attached():
            for rows in self._batches([len(t) for t in texts], [0] * len(texts), every_token=False):
                ids, mask = pad_right([texts[i] for i in rows], self.tokenizer.pad_token_id or 0, self.device)
                body = self.voices[0].model.base_model
                hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
                weight = mask.unsqueeze(-1)
                out[rows] = ((hidden * weight).sum(1) / weight.sum(1)).cpu()
        return out

    def _batches(
        self, lengths: Sequence[int], extra: Sequence[int], *, every_token: bool = True, even: bool = False
    ) -> Iterator[list[int]]:
        """Rows by length. even: of one length, so that no padding stands between what is shared and the rest, where a model
        measures distances by place (sliding windows, biases by distance).
        """
        width = vocabulary(self.voices[0].model)
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i] + extra[i], i))
        batch: list[int] = []
        for i in order:  # ascending, so the newest row sets the width
            rows = len(batch) + 1
            wide = rows * (lengths[i] + extra[i]) > TOKENS_PER_BATCH
            heavy = every_token and rows * (1 + extra[i]) * width > LOGITS_PER_BATCH
            if batch and (wide or heavy or (even and lengths[i] != lengths[batch[0]])):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    @contextlib.contextmanager
    def _attached(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for voice in self.voices:
                stack.enter_context(voice.attach())
            yield

    def _reads_trees(self, length: int) -> bool:
        """Whether all voices read trees of answers, at this length of prompt and answer."""
        return all((a := ability(v.model)).trees and length <= a.window for v in self.voices)

    def _caches(self) -> bool:
        return all(ability(v.model).caches for v in self.voices)

    def _share(self, prompts: Sequence[list[int]]) -> _Past:
        """Run the soft prefix and the tokens that all prompts begin with, once."""
        if not self._caches():
            return _Past([[] for _ in self.voices], [0 if v.prefix is None else len(v.prefix) for v in self.voices], 0)
        shared = _common(prompts) if len(prompts) > 1 else 0
        if shared < SHARE_AT_LEAST:
            shared = 0
        layers: list[list[tuple[Tensor, Tensor]]] = []
        lengths: list[int] = []
        for voice in self.voices:
            soft = 0 if voice.prefix is None else voice.prefix.shape[0]
            lengths.append(soft + shared)
            if soft + shared == 0:
                layers.append([])
                continue
            embed = voice.model.get_input_embeddings()
            parts = [] if voice.prefix is None else [voice.prefix.to(self.device, embed.weight.dtype)]
            if shared:
                parts.append(embed(torch.tensor(prompts[0][:shared], device=self.device)))
            cache = DynamicCache()
            voice.model(inputs_embeds=torch.cat(parts).unsqueeze(0), past_key_values=cache, use_cache=True, **keep(voice.model, 1))
            layers.append([(layer.keys, layer.values) for layer in cache.layers])
        return _Past(layers, lengths, shared)

    def _score_tree(self, prompts: list[list[int]], forest: list[Tree], past: _Past) -> list[Tensor]:
        inner = max(len(t.tokens) for t in forest)
        rests = [p[past.shared :] for p in prompts]
        width = max(map(len, rests))
        ids = torch.full((len(prompts), width + inner), self.tokenizer.pad_token_id or 0)
        steps = torch.zeros(len(prompts), width + inner, dtype=torch.long)
        sees = torch.eye(width + inner, dtype=torch.bool).repeat(len(prompts), 1, 1)
        known = torch.zeros(len(prompts), width + inner, dtype=torch.bool)
        cached: dict[int, Tensor] = {}
        for r, (rest, t) in enumerate(zip(rests, forest, strict=True)):
            start, n = width - len(rest), len(t.tokens)
            ids[r, start:width], steps[r, start:width] = torch.tensor(rest), torch.arange(len(rest))
            known[r, start : width + n] = True
            sees[r, start:width, start:width] = torch.ones(len(rest), len(rest), dtype=torch.bool).tril()
            if n:
                ids[r, width : width + n] = torch.tensor(t.tokens)
                steps[r, width : width + n] = len(rest) - 1 + torch.tensor(t.depths)
                sees[r, width : width + n, start:width] = True
                sees[r, width : width + n, width : width + n] = cached.setdefault(id(t), t.visible())
        logits = self._forward(ids, steps, sees, known, past, count=1 + inner)
        out = []
        for r, t in enumerate(forest):
            rows = logits[r].float()
            norm = rows.logsumexp(-1)
            slots, targets = t.slots.to(rows.device), t.targets.to(rows.device)
            out.append(t.gather(rows[slots, targets] - norm[slots]).cpu())
        return out

    def _forward(self, ids: Tensor, steps: Tensor, sees: Tensor, known: Tensor, past: _Past, *, count: int) -> Tensor:
        """Logits of the last `count` positions, fused. sees: (rows, q, q) bool over what is fed; the past is seen by known tokens."""
        logits = []
        for v, voice in enumerate(self.voices):
            before = past.lengths[v]
            mask = torch.cat([known.unsqueeze(-1).expand(-1, -1, before), sees], -1) if before else sees
            result = voice.model(
                input_ids=ids.to(self.device), attention_mask=attention_mask(mask.to(self.device), voice.model), position_ids=(steps + before).to(self.device),
                past_key_values=past.cache(v, len(ids)), use_cache=bool(past.layers[v]), **keep(voice.model, count),
            )  # fmt: skip
            logits.append(result.logits[:, -count:])
        return self.fuse(logits)

    def _score_rows(self, prompt: list[int], choices: Sequence[list[int]], past: _Past) -> Tensor:
        """Every choice a row of its own after the prompt's keys and values: for models that read no trees."""
        rest = torch.tensor([prompt[past.shared :]], device=self.device)
        heads, layers = [], []
        for v, voice in enumerate(self.voices):
            cache = past.cache(v, 1) or DynamicCache()
            heads.append(voice.model(input_ids=rest, past_key_values=cache, use_cache=True, **keep(voice.model, 1)).logits[:, -1:])
            layers.append([(layer.keys, layer.values) for layer in cache.layers])
        read, scores = _Past(layers, [], 0), []
        for part in self._parts(choices, 1):
            ids, _ = pad_right(part, 0, self.device)
            logits = [h.expand(len(part), -1, -1) for h in heads]
            if ids.shape[1] > 1:
                more = [
                    w.model(input_ids=ids[:, :-1], past_key_values=read.cache(v, len(part)), use_cache=True).logits
                    for v, w in enumerate(self.voices)
                ]
                logits = [torch.cat([h, m], 1) for h, m in zip(logits, more, strict=True)]
            scores.append(_sums(self.fuse(logits), part))
        return torch.cat(scores)

    def _score_plain(self, prompt: list[int], choices: Sequence[list[int]], _: _Past) -> Tensor:
        """Every choice a row of its own with the whole prompt: for models that keep no keys and values."""
        scores = []
        for part in self._parts(choices, len(prompt)):
            ids, _mask = pad_right([prompt + c for c in part], 0, self.device)
            width = ids.shape[1] - len(prompt) + 1
            scores.append(_sums(self.fuse([self._whole(v, ids, width) for v in self.voices]), part))
        return torch.cat(scores)

    def _whole(self, voice: Voice, ids: Tensor, count: int) -> Tensor:
        """Logits of the last `count` positions of rows read at once, after the voice's soft prefix. Padding on the right is never seen."""
        fed: dict[str, Any] = {"input_ids": ids}
        if voice.prefix is not None:
            embeds = voice.model.get_input_embeddings()(ids)
            fed = {"inputs_embeds": torch.cat([voice.prefix.to(embeds).expand(len(ids), -1, -1), embeds], 1)}
        return voice.model(**fed, use_cache=False, **keep(voice.model, count)).logits[:, -count:]

    def _parts(self, choices: Sequence[list[int]], extra: int) -> Iterator[list[list[int]]]:
        """The choices, in order, in batches."""
        longest = max(map(len, choices))
        step = max(1, min(TOKENS_PER_BATCH // (extra + longest), LOGITS_PER_BATCH // ((longest + 1) * vocabulary(self.voices[0].model))))
        for i in range(0, len(choices), step):
            yield [list(c) for c in choices[i : i + step]]

    def _write(
        self, prompts: list[list[int]], past: _Past, limit: int, stop: Sequence[str], temperature: float, streams: list[torch.Generator] | None,
    ) -> list[Generated]:  # fmt: skip
        feed, mask = pad_left([p[past.shared :] for p in prompts], self.tokenizer.pad_token_id or 0, self.device)
        caches = [past.cache(v, len(prompts)) or DynamicCache() for v in range(len(self.voices))]
        masks = [torch.cat([torch.ones(len(prompts), n, dtype=mask.dtype, device=self.device), mask], 1) for n in past.lengths]

        def step(active: list[int], _: list[list[int]], token: Tensor | None) -> Tensor:
            if token is None:
                return self._step(feed, masks, caches)
            masks[:] = [torch.cat([m, torch.ones(len(active), 1, dtype=m.dtype, device=self.device)], 1) for m in masks]
            return self._step(token, masks, caches)

        def drop(kept: Tensor) -> None:
            for cache in caches:
                cache.batch_select_indices(kept)
            masks[:] = [m[kept] for m in masks]

        ends = Ends(self.tokenizer, self.voices[0].model, stop)
        return write(len(prompts), step, drop, ends, limit=limit, temperature=temperature, streams=streams)

    def _write_plain(
        self, prompts: list[list[int]], _: _Past, limit: int, stop: Sequence[str], temperature: float, streams: list[torch.Generator] | None,
    ) -> list[Generated]:  # fmt: skip
        """For models that keep no keys and values: every step reads the whole row again."""

        def step(active: list[int], written: list[list[int]], _: Tensor | None) -> Tensor:
            rows = [prompts[i] + written[i] for i in active]
            ids, _mask = pad_right(rows, 0, self.device)
            back = [ids.shape[1] - len(r) for r in rows]
            width = 1 + max(back)
            logits = self.fuse([self._whole(v, ids, width) for v in self.voices])
            return logits[range(len(rows)), [width - 1 - n for n in back]]

        ends = Ends(self.tokenizer, self.voices[0].model, stop)
        return write(len(prompts), step, lambda _: None, ends, limit=limit, temperature=temperature, streams=streams)

    def _step(self, feed: Tensor, masks: list[Tensor], caches: list[DynamicCache]) -> Tensor:
        logits = []
        for voice, mask, cache in zip(self.voices, masks, caches, strict=True):
            options: dict[str, Any] = {}
            if takes_positions(voice.model):
                options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -feed.shape[1] :]
            result = voice.model(
                input_ids=feed, attention_mask=mask, past_key_values=cache, use_cache=True, **keep(voice.model, 1), **options
            )
            logits.append(result.logits[:, -1])
        return self.fuse(logits)


def _sums(logits: Tensor, choices: Sequence[list[int]]) -> Tensor:
    """logits (choices, tokens, vocabulary), the first of which predict the first tokens -> summed log-probabilities (choices,)."""
    logprobs = logits.float().log_softmax(-1)
    return torch.stack([logprobs[r, range(len(c)), c].sum() for r, c in enumerate(choices)]).cpu()


def _common(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with, leaving at least one of each."""
    low, high = min(rows), max(rows)
    limit = min(map(len, rows)) - 1
    return next((i for i in range(limit) if low[i] != high[i]), max(0, limit))
