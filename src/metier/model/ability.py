"""What a causal model can be asked to do, found out by trying it once on nine tokens.

The fast ways of reading (trees of answers, packed rows, shared keys and values) lean on a model's mask, positions and
cache. A model that takes them and ignores them (recurrent layers, biases by distance) would answer wrongly without a
word, so each way is compared with the plain one first, and readers go the plain way where it differs.
"""

from __future__ import annotations

import functools
import inspect
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

WINDOWS = ("sliding_window", "attention_chunk_size", "window_size", "attention_window", "attention_window_size", "local_attention")
SCALES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_scale")
CLOSE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.2}  # of how far apart obeying and ignoring are
APART = {torch.bfloat16: 0.1, torch.float16: 0.1}  # how far apart they must be, of the logits' size, for rounding not to decide
TRIALS = 8
_known: weakref.WeakKeyDictionary[nn.Module, Ability] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Ability:
    """trees: a mask of its own for every token, and positions, are obeyed (up to `window` tokens); caches: keys and values
    can be kept, and shared by rows or padded on the left; plain_head: logits are the output layer of the last hidden states.
    """

    trees: bool
    caches: bool
    window: float
    plain_head: bool


def ability(model: Any) -> Ability:
    """The model's abilities; tried at the first call, then remembered."""
    if model not in _known:
        with torch.no_grad():
            _known[model] = Ability(_holds(_trees, model), _holds(_caches, model), window(model), _holds(_plain_head, model))
    return _known[model]


def window(model: Any) -> float:
    """How many tokens back every layer sees: infinity where no layer has a window."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if getattr(config, "use_sliding_window", True) is False or (kinds and all(k == "full_attention" for k in kinds)):
        return math.inf
    found = [w for key in WINDOWS if isinstance(w := getattr(config, key, None), int) and not isinstance(w, bool) and w > 0]
    return min(found, default=math.inf)


def vocabulary(model: Any) -> int:
    """How many tokens the model's logits are over."""
    return int(model.config.get_text_config().vocab_size)


def takes_positions(model: Any) -> bool:
    """Whether the model's forward takes position ids."""
    return "position_ids" in _arguments(getattr(model.forward, "__func__", model.forward))


def keep(model: Any, count: int) -> dict[str, int]:
    """The argument that spares computing logits nobody reads, where the model has it."""
    return {"logits_to_keep": count} if "logits_to_keep" in _arguments(getattr(model.forward, "__func__", model.forward)) else {}


@functools.lru_cache(maxsize=16)
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def attention_mask(visible: Tensor, model: Any) -> Tensor:
    """(rows, q, k) bool, true where a query sees a key, as the 4-D mask that the model's attention takes."""
    if getattr(model.config, "_attn_implementation", "") == "sdpa":
        return visible.unsqueeze(1)
    dtype = model.get_input_embeddings().weight.dtype
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min).unsqueeze(1)


class _Unclear(Exception):
    """To obey and to ignore would give nearly the same on these tokens."""


def _holds(way: Callable[[Any, Tensor], bool], model: Any) -> bool:
    """Tried on tokens that tell; False where none do."""
    device = model.get_input_embeddings().weight.device
    for trial in range(TRIALS):
        ids = torch.randint(vocabulary(model), (9,), generator=torch.Generator().manual_seed(trial)).to(device)
        try:
            return way(model, ids)
        except _Unclear:
            continue
        except Exception:  # a model that refuses such input in any way cannot be read so; the plain way reads it
            return False
    return False


def _plain(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids.unsqueeze(0), use_cache=False).logits[0, -1].float()


def _like(got: Tensor, wanted: Tensor, other: Tensor) -> bool:
    """Whether `got` is `wanted` up to rounding; `other` is what a model gives that ignores what it was told. Raises _Unclear."""
    off, apart, size = (float(x.abs().max()) for x in (got.float() - wanted, other - wanted, wanted))
    if apart < APART.get(got.dtype, 0.0) * size:
        raise _Unclear
    return off <= max(CLOSE[got.dtype] * apart, 1e-5 * size)


def _trees(model: Any, ids: Tensor) -> bool:
    """One padding token, a prompt of four, two branches of two: each branch as if alone, with and without a cache."""
    if not takes_positions(model):
        return False
    prompt, a, b = ids[:4], ids[4:6], ids[6:8]
    wanted = [_plain(model, torch.cat([prompt, x])) for x in (a, b)]
    other = [_plain(model, torch.cat([prompt, b[:1], a])), _plain(model, torch.cat([prompt, a, b]))]
    row = torch.cat([ids[8:], prompt, a, b])
    sees = torch.ones(9, 9, dtype=torch.bool, device=ids.device).tril()
    sees[1:, 0], sees[7:, 5:7] = False, False
    steps = torch.tensor([0, 0, 1, 2, 3, 4, 5, 4, 5], device=ids.device)
    for shared in (0, 2):
        fed = torch.cat([row[:1], row[1 + shared :]])
        mask = torch.cat([sees[:1], sees[1 + shared :]])
        at = torch.tensor([*range(1, 1 + shared), 0, *range(1 + shared, 9)], device=ids.device)
        options: dict[str, Any] = {"use_cache": False}
        if shared:
            options = {"use_cache": True, "past_key_values": (cache := DynamicCache())}
            model(input_ids=prompt[:shared].unsqueeze(0), **options)
            options["past_key_values"] = DynamicCache([(layer.keys, layer.values) for layer in cache.layers])
        logits = model(
            input_ids=fed.unsqueeze(0), attention_mask=attention_mask(mask[:, at].unsqueeze(0), model),
            position_ids=torch.cat([steps[:1], steps[1 + shared :]]).unsqueeze(0), **options,
        ).logits[0]  # fmt: skip
        if not all(_like(logits[i], w, o) for i, w, o in zip((-3, -1), wanted, other, strict=True)):
            return False
    return True


def _caches(model: Any, ids: Tensor) -> bool:
    """Two rows, one padded on the left; then two rows that share what was read before: with a step each, as if each were alone."""
    rows = [ids[[0, 1, 2, 3, 4, 5]], ids[[0, 1, 2, 3, 6]]]
    shared = DynamicCache()
    model(input_ids=ids[:2].unsqueeze(0), past_key_values=shared, use_cache=True)
    shared = DynamicCache([(layer.keys.expand(2, -1, -1, -1), layer.values.expand(2, -1, -1, -1)) for layer in shared.layers])
    padded = torch.stack([rows[0][:5], torch.cat([ids[8:], rows[1][:4]])])
    known = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]], device=ids.device)
    even = [rows[0], torch.cat([rows[1], ids[7:8]])]
    ways = ((DynamicCache(), padded, known, rows), (shared, torch.stack([r[2:5] for r in even]), torch.ones_like(known), even))
    for cache, first, mask, wanted in ways:
        for feed in (first, torch.stack([r[-1:] for r in wanted])):
            mask = mask if feed is first else torch.cat([mask, mask[:, -1:]], 1)
            options = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -feed.shape[1] :]} if takes_positions(model) else {}
            logits = model(input_ids=feed, attention_mask=mask, past_key_values=cache, use_cache=True, **options).logits[:, -1]
        if not all(_like(got, _plain(model, row), _plain(model, row[-1:])) for got, row in zip(logits, wanted, strict=True)):
            return False
    return True


def _plain_head(model: Any, ids: Tensor) -> bool:
    config = model.config.get_text_config()
    if any(getattr(config, name, None) not in (None, 0, 1, 1.0) for name in SCALES):
        return False
    hidden = model.base_model(input_ids=ids.unsqueeze(0), use_cache=False).last_hidden_state
    got, wanted = model.get_output_embeddings()(hidden), model(input_ids=ids.unsqueeze(0), use_cache=False).logits
    return got.shape == wanted.shape and bool(torch.allclose(got, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max())))
