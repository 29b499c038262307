"""Reading and writing with causal language models: choices scored in one pass, cached generation, embeddings.

What prompts share is computed once: the soft prefix and the tokens that all prompts of a call begin with are run
once and their keys and values shared by every batch. Prompts are sorted by length; a batch holds at most
`TOKENS_PER_BATCH` tokens. Several models may speak together ('voices'); their logits are fused before anything is
read from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

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


@dataclass(frozen=True)
class Generated:
    """One answer: its text (cut at a stop text), how many tokens were written, and their mean log-probability."""

    text: str
    tokens: int
    logprob: float


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
        with self._attached():
            past = self._share(prompts)
            for rows in self._batches([len(p) - past.shared for p in prompts], [len(t.tokens) for t in forest]):
                score = self._score_tree if all(takes_positions(v.model) for v in self.voices) else self._score_plain
                results = score([prompts[i] for i in rows], [forest[i] for i in rows], [choices[i] for i in rows], past)
                for i, scores in zip(rows, results, strict=True):
                    out[i] = scores
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
            for rows in self._batches([len(p) - past.shared for p in prompts], [max_new_tokens] * len(prompts), every_token=False):
                streams = [_stream(seeds[i]) for i in rows] if seeds and temperature > 0 else None
                for i, answer in zip(rows, self._write([prompts[i] for i in rows], past, max_new_tokens, stop, temperature, streams), strict=True):
                    out[i] = answer
        return [a for a in out if a is not None]

    @torch.inference_mode()
    def embed(self, texts: Sequence[list[int]]) -> Tensor:
        """Mean of the last hidden states over a text's tokens: (texts, hidden), float32."""
        out = torch.zeros(len(texts), self.voices[0].model.get_input_embeddings().weight.shape[1])
        with self._attached():
            for rows in self._batches([len(t) for t in texts], [0] * len(texts), every_token=False):
                ids, mask = _left_pad([texts[i] for i in rows], self.tokenizer.pad_token_id or 0, self.device)
                body = self.voices[0].model.base_model
                hidden = body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
                weight = mask.unsqueeze(-1)
                out[rows] = ((hidden * weight).sum(1) / weight.sum(1)).cpu()
        return out

    def _batches(self, lengths: Sequence[int], extra: Sequence[int], *, every_token: bool = True) -> Iterator[list[int]]:
        vocabulary = int(self.voices[0].model.config.vocab_size)
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i] + extra[i], i))
        batch: list[int] = []
        for i in order:  # ascending, so the newest row sets the width
            rows = len(batch) + 1
            wide = rows * (lengths[i] + extra[i]) > TOKENS_PER_BATCH
            heavy = every_token and rows * (1 + extra[i]) * vocabulary > LOGITS_PER_BATCH
            if batch and (wide or heavy):
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

    def _share(self, prompts: Sequence[list[int]]) -> _Past:
        """Run the soft prefix and the tokens that all prompts begin with, once."""
        shared = _common(prompts) if len(prompts) > 1 else 0
        if shared < SHARE_AT_LEAST or not all(takes_positions(v.model) for v in self.voices):
            shared = 0
        layers, lengths = [], []
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
            voice.model(inputs_embeds=torch.cat(parts).unsqueeze(0), past_key_values=cache, use_cache=True, **_keep(voice.model, 1))
            layers.append([(layer.keys, layer.values) for layer in cache.layers])
        return _Past(layers, lengths, shared)

    def _score_tree(self, prompts: list[list[int]], forest: list[Tree], _: Any, past: _Past) -> list[Tensor]:
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
        logits = self._forward(ids, steps, sees, known, past, keep=1 + inner)
        out = []
        for r, t in enumerate(forest):
            rows = logits[r].float()
            norm = rows.logsumexp(-1)
            slots, targets = t.slots.to(rows.device), t.targets.to(rows.device)
            out.append(t.gather(rows[slots, targets] - norm[slots]).cpu())
        return out

    def _forward(self, ids: Tensor, steps: Tensor, sees: Tensor, known: Tensor, past: _Past, *, keep: int) -> Tensor:
        """Logits of the last `keep` positions, fused. sees: (rows, q, q) bool over what is fed; the past is seen by known tokens."""
        logits = []
        for v, voice in enumerate(self.voices):
            before = past.lengths[v]
            mask = torch.cat([known.unsqueeze(-1).expand(-1, -1, before), sees], -1) if before else sees
            result = voice.model(
                input_ids=ids.to(self.device), attention_mask=attention_mask(mask.to(self.device), voice.model), position_ids=(steps + before).to(self.device),
                past_key_values=past.cache(v, len(ids)), use_cache=past.cache(v, 1) is not None, **_keep(voice.model, keep),
            )  # fmt: skip
            logits.append(result.logits[:, -keep:])
        return self.fuse(logits)

    def _score_plain(self, prompts: list[list[int]], forest: list[Tree], choices: list[Sequence[list[int]]], _: _Past) -> list[Tensor]:
        """For models that take no position ids: every (prompt, choice) is a row of its own, padded on the right."""
        out = []
        for prompt, options in zip(prompts, choices, strict=True):
            rows = [prompt + list(c) for c in options]
            width = max(map(len, rows))
            pad = self.tokenizer.pad_token_id or 0
            ids = torch.tensor([r + [pad] * (width - len(r)) for r in rows], device=self.device)
            mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows], device=self.device)
            logits = self.fuse([v.model(input_ids=ids, attention_mask=mask).logits for v in self.voices]).float().log_softmax(-1)
            scores = [logits[r, len(prompt) - 1 + torch.arange(len(c)), torch.tensor(c)].sum() for r, c in enumerate(options)]
            out.append(torch.stack(scores).cpu())
        return out

    def _write(
        self, prompts: list[list[int]], past: _Past, limit: int, stop: Sequence[str], temperature: float, streams: list[torch.Generator] | None,
    ) -> list[Generated]:  # fmt: skip
        ids, mask = _left_pad([p[past.shared :] for p in prompts], self.tokenizer.pad_token_id or 0, self.device)
        caches = [past.cache(v, len(prompts)) or DynamicCache() for v in range(len(self.voices))]
        masks = [torch.cat([torch.ones(len(prompts), n, dtype=mask.dtype, device=self.device), mask], 1) for n in past.lengths]
        active = list(range(len(prompts)))
        written: list[list[int]] = [[] for _ in prompts]
        logprobs = [0.0] * len(prompts)
        ends = _Ends(self.tokenizer, self.voices[0].model, stop)
        feed, first = ids, True
        for _ in range(limit):
            logits = self._step(feed, masks, caches, first)
            first = False
            scores = logits.float().log_softmax(-1)
            token = scores.argmax(-1) if temperature <= 0 else _sample(scores / temperature, [streams[i] for i in active] if streams else None)
            picked = scores.gather(1, token.unsqueeze(1)).squeeze(1).tolist()
            for row, new, logprob in zip(active, token.tolist(), picked, strict=True):
                written[row].append(new)
                logprobs[row] += logprob
            keep = [k for k, row in enumerate(active) if not ends.reached(written[row])]
            if not keep:
                break
            if len(keep) < len(active):
                chosen = torch.tensor(keep, device=self.device)
                for cache in caches:
                    cache.batch_select_indices(chosen)
                masks, token, active = [m[chosen] for m in masks], token[chosen], [active[k] for k in keep]
            masks = [torch.cat([m, torch.ones(len(active), 1, dtype=m.dtype, device=self.device)], 1) for m in masks]
            feed = token.unsqueeze(1)
        return [Generated(ends.text(w), len(w), p / max(1, len(w))) for w, p in zip(written, logprobs, strict=True)]

    def _step(self, feed: Tensor, masks: list[Tensor], caches: list[DynamicCache], first: bool) -> Tensor:
        logits = []
        for voice, mask, cache in zip(self.voices, masks, caches, strict=True):
            options: dict[str, Any] = {}
            if takes_positions(voice.model):
                options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -feed.shape[1] :]
            result = voice.model(input_ids=feed, attention_mask=mask, past_key_values=cache, use_cache=True, **_keep(voice.model, 1), **options)
            logits.append(result.logits[:, -1])
        return self.fuse(logits)


class _Ends:
    """When an answer is over: an end token, or a stop text in what was written."""

    def __init__(self, tokenizer: Any, model: Any, stop: Sequence[str]) -> None:
        ids = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        listed = ids if isinstance(ids, list) else [ids]
        self.tokens = {i for i in (*listed, tokenizer.eos_token_id) if i is not None}
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.longest = max(map(len, self.stop), default=0)

    def reached(self, written: list[int]) -> bool:
        if written[-1] in self.tokens:
            return True
        if not self.stop:
            return False
        tail = self.tokenizer.decode(written[-(self.longest + 1) :])
        started = len(written) > self.longest + 1 or tail.strip() != ""
        return started and any(s in tail.lstrip() if len(written) <= self.longest + 1 else s in tail for s in self.stop)

    def text(self, written: list[int]) -> str:
        """The text before the first stop; white space before the answer does not count as one."""
        text = self.tokenizer.decode([t for t in written if t not in self.tokens], skip_special_tokens=True).lstrip()
        return min((text.split(s)[0] for s in self.stop), key=len, default=text)


def attention_mask(visible: Tensor, model: Any) -> Tensor:
    """(rows, q, k) bool, true where a query sees a key, as the 4-D mask that the model's attention takes."""
    if getattr(model.config, "_attn_implementation", "") == "sdpa":
        return visible.unsqueeze(1)
    dtype = model.get_input_embeddings().weight.dtype
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min).unsqueeze(1)


def takes_positions(model: Any) -> bool:
    return "position_ids" in inspect.signature(model.forward).parameters


def _keep(model: nn.Module, count: int) -> dict[str, int]:
    """The argument that spares computing logits nobody reads, where the model has it."""
    return {"logits_to_keep": count} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _left_pad(rows: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def _common(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with, leaving at least one of each."""
    low, high = min(rows), max(rows)
    limit = min(map(len, rows)) - 1
    return next((i for i in range(limit) if low[i] != high[i]), max(0, limit))


def _stream(seed: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7]))


def _sample(scores: Tensor, streams: Iterable[torch.Generator] | None) -> Tensor:
    """One token a row, by inverse transform: the first token at which the running sum of probabilities passes a uniform draw."""
    sums = scores.softmax(-1).double().cumsum(-1)
    draws = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in streams]) if streams else torch.rand(len(scores), dtype=torch.float64)
    limit = (draws.to(sums.device) * sums[:, -1]).unsqueeze(1)
    return torch.searchsorted(sums, limit, right=True).squeeze(1).clamp(max=scores.shape[1] - 1)
