"""Answers as a tree of tokens, so that all choices of a prompt are read in one forward pass.

Choices that begin alike share nodes. Only inner nodes have to be read by the model: a choice's last token is predicted,
never fed. Slot 0 is the prompt's last token; inner node i is slot 1 + i.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """tokens: inner nodes in the order they are fed; parents: slot of each node's parent; depths: 1 for the first token.

    slots, targets: for every token of every choice, the slot that predicts it and the token; owner: which choice it
    belongs to.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    slots: Tensor
    targets: Tensor
    owner: Tensor
    choices: int

    @functools.cached_property
    def visible(self) -> Tensor:
        """(n, n) bool: which inner nodes each inner node sees (its ancestors and itself)."""
        n = len(self.tokens)
        seen = torch.zeros(n, n, dtype=torch.bool)
        for i, parent in enumerate(self.parents):
            if parent > 0:
                seen[i] = seen[parent - 1]
            seen[i, i] = True
        return seen

    def gather(self, logprob_of: Tensor) -> Tensor:
        """(..., tokens of all choices) log-probabilities summed by choice: (..., choices)."""
        return logprob_of.new_zeros(*logprob_of.shape[:-1], self.choices).index_add(-1, self.owner.to(logprob_of.device), logprob_of)


def tree(choices: Sequence[Sequence[int]]) -> Tree:
    """The tree of some token sequences, none empty. The same choices give the same tree."""
    return _tree(tuple(map(tuple, choices)))


@functools.lru_cache(maxsize=64)
def _tree(choices: tuple[tuple[int, ...], ...]) -> Tree:
    inner: dict[tuple[int, ...], int] = {(): 0}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    slots, targets, owner = [], [], []
    for c, choice in enumerate(choices):
        if not choice:
            raise ValueError("a choice has no tokens")
        for t, token in enumerate(choice):
            before = choice[:t]
            if before not in inner:
                tokens.append(before[-1])
                parents.append(inner[before[:-1]])
                depths.append(t)
                inner[before] = len(tokens)
            slots.append(inner[before])
            targets.append(token)
            owner.append(c)
    return Tree(tuple(tokens), tuple(parents), tuple(depths), torch.tensor(slots), torch.tensor(targets), torch.tensor(owner), len(choices))
