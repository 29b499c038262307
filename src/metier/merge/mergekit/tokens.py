"""Tokens: one vocabulary for the result, and every model's embedding rows in its order.

A token that a model lacks gets the base's row, or where the base lacks it too the mean of the models that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metier.errors import UserError
from metier.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


class Vocabulary(NamedTuple):
    """The result's tokenizer, how many rows its embeddings have, and for each model which of its rows is which token (-1: none)."""

    tokenizer: Any
    rows: int
    where: Mapping[str, Tensor]


def vocabulary(source: str, models: Sequence[str], places: Mapping[str, Path], base: str, multiple: int | None) -> Vocabulary:
    """The vocabulary that `source` asks for: 'base', 'union' or a model's. Raises UserError where tokenizers cannot be united."""
    tokenizers = {m: _load(places[m]) for m in models}
    if source not in ("base", "union", *models):
        raise UserError(f"tokenizer_source {source!r}: write base, union, or one of the models {', '.join(models)}.")
    chosen = _load(places[base if source in ("base", "union") else source])
    if source == "union":
        _unite(chosen, {m: t for m, t in tokenizers.items() if m != base})
    size = max(chosen.get_vocab().values()) + 1
    rows = -(-size // multiple) * multiple if multiple else size
    where = {}
    for model, tokenizer in tokenizers.items():
        known = tokenizer.get_vocab()
        at = torch.full((rows,), -1)
        for token, i in chosen.get_vocab().items():
            at[i] = known.get(token, -1)
        where[model] = at
    return Vocabulary(chosen, rows, where)


def resized(name: str, model: str, base: str, vocabulary: Vocabulary, tensors: Mapping[str, Tensor]) -> Tensor:
    """A model's embedding with a row for every token of the result. tensors: the embedding of every model; its own type is kept."""
    own = tensors[model]
    found = torch.zeros(vocabulary.rows, *own.shape[1:])
    have = {m: (at >= 0) & (at < len(tensors[m])) for m, at in vocabulary.where.items() if m in tensors}
    count = torch.stack([h.float() for h in have.values()]).sum(0).clamp(min=1)
    for other, there in have.items():  # the mean of those that have it
        found[there] += tensors[other][vocabulary.where[other][there]].float() / count[there].view(-1, *[1] * (own.ndim - 1))
    for preferred in (base, model):
        if preferred in have:
            there = have[preferred]
            found[there] = tensors[preferred][vocabulary.where[preferred][there]].float()
    return found


def _unite(tokenizer: Any, others: Mapping[str, Any]) -> None:
    """Add the tokens that other tokenizers added. Raises UserError where they differ in more than added tokens."""
    for model, other in others.items():
        known, added = tokenizer.get_vocab(), other.get_added_vocab()
        lacking = sorted((t for t in other.get_vocab() if t not in known), key=other.get_vocab().get)
        if pieces := [t for t in lacking if t not in added]:
            raise UserError(
                f"tokenizer_source union: {model} has {len(pieces)} pieces that the base's tokenizer lacks, the first {pieces[0]!r}; "
                "only tokens that were added to one vocabulary can be united."
            )
        by_text = {str(t): t for t in other.added_tokens_decoder.values()}
        tokenizer.add_tokens([by_text.get(t, t) for t in lacking])


def _load(place: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(place), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: its tokenizer cannot be loaded ({str(error).splitlines()[0][:200]}).") from error
