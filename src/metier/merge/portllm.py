"""PortLLM: put the change that a base was tuned by onto another version of that base, without training.

Paper:       Khan et al. 2024, arXiv:2410.10870, section 3 (equation 3).
Formula:     W' = W_new + d, d = W_old,tuned - W_old; re-mapped by tokens: the row of d for token t of the new vocabulary is its row for
             the token of the same text in the old one, 0 where there is none.
Shapes:      d and both bases' tensors S; embeddings (tokens, hidden), whose first dimension may differ where tokens are re-mapped.
Units:       none.
Randomness:  none.
Cost:        the old base is read once, where it is given by name, and dev is answered four times unless `measure` is false; the change
             keeps its form (low-rank stays low-rank).
Deviations:  the paper carries LoRA patches; any delta is carried here. Re-mapping by token text is ours. peft, mergekit: a patch is put onto
             any base of fitting shapes without a word; here another base is refused unless `allow_base` names the one it was made from.
Errors:      BaseMismatch where the patch was made from a base that is not named (a full checkpoint, or an adapter whose base cannot be found,
             is one of an unknown base); UserError where vocabularies differ and `remap` is 'no';
             KeyMismatch, ShapeMismatch where the new base lacks a tensor or has another shape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from metier import check
from metier.delta import Delta, LowRank, New, Sparse
from metier.delta.entry import Entry
from metier.delta.kinds import Dense
from metier.delta.record import record
from metier.errors import BaseMismatch, KeyMismatch, ShapeMismatch, UserError
from metier.evaluate.measuring import measure
from metier.merge._adapter import CONFIG as ADAPTER
from metier.merge._experts import Expert, kind_of, opened_expert, weights_of_model
from metier.merge._kin import named_base, of_named_base
from metier.method import About
from metier.model import Base, Specialist, WeightChange, load_base
from metier.task import Task
from metier.train import Run

ABOUT = About(place="weights", papers=(51,), reads=("experts", "allow_base"), experts=(1, 1))
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of porting."""

    experts: tuple[str, ...]
    """The one patch that is carried: folder of a delta, specialist, PEFT adapter or, with allow_base, a full checkpoint."""
    allow_base: str = ""
    """The base that the patch was made from, by name or folder, or by its fingerprint where it is gone; none: the base at hand."""
    remap: Literal["no", "tokens"] = "no"
    """Whether rows of embeddings are moved to the tokens of the same text where vocabularies differ."""
    measure: bool = True
    """Whether both bases answer the dev split with and without the patch, where the old one is given by name: what carrying it costs."""

    def __post_init__(self) -> None:
        if len(self.experts) != 1:
            raise UserError(f"experts: exactly one patch is carried; got {len(self.experts)}.")
        check.one_of("remap", self.remap, ("no", "tokens"))


def portllm(start: Specialist, task: Task, settings: Settings, run: Run) -> WeightChange:
    """Carry a patch made on another base to this one."""
    patch, rows, old = opened_patch(settings.experts[0], start.base, settings.allow_base, settings.remap)
    delta = port(patch.delta, start.base, rows)
    if settings.measure and old is not None and task.dev:
        found = portability(patch.delta, old, start.base, task, rows=rows, labels=patch.labels)
        if run.say:
            run.say(f"portllm: {found.text()}")
        delta = replace(delta, provenance={**delta.provenance, "portability": found.facts()})
    return WeightChange(delta, patch.labels)


def opened_patch(place: str, base: Base, allow_base: str, remap: str) -> tuple[Expert, Tensor | None, Base | None]:
    """(the patch, rows, the base it was made from where that is at hand beside the new one): opened as a change of that base.

    rows: (new tokens,) the old row of each new token, -1 for none. Raises BaseMismatch where nothing says which base a patch was made from.
    """
    folder, kind = Path(place).expanduser(), kind_of(Path(place).expanduser())
    if not allow_base:
        if kind is None:
            raise BaseMismatch(
                f"portllm: {place} is a full checkpoint; taken as a change of {base.name} it would replace what that one knows. Say with "
                "--allow-base which base it was tuned from."
            )
        if kind == ADAPTER and not of_named_base(folder, base):
            raise BaseMismatch(
                f"portllm: the adapter {place} was tuned on {named_base(folder) or 'a base that it does not name'}, which cannot be found here "
                f"to be compared with {base.name}. Say with --allow-base which base it was tuned on."
            )
        return opened_expert(place, base), None, None
    if FINGERPRINT.fullmatch(allow_base):
        if remap != "no":
            raise UserError("remap: the old tokens are not known by a fingerprint. Give the old base itself as allow_base.")
        if kind is None:
            raise UserError(f"portllm: the change of the full checkpoint {place} is not known by a fingerprint. Give the old base itself.")
        return opened_expert(place, replace(base, fingerprint=allow_base)), None, None
    old = load_base(allow_base, family=base.family, device="cpu")
    return opened_expert(place, old), token_rows(old.tokenizer, base.tokenizer, remap), old


def token_rows(old: Any, new: Any, remap: str) -> Tensor | None:
    """(new tokens,) for each token of a tokenizer the id of the same text in another, -1 where there is none; None where all are the same.

    Raises UserError where vocabularies differ and re-mapping was not asked for.
    """
    before, after = old.get_vocab(), new.get_vocab()
    if before == after:
        return None
    if remap != "tokens":
        known = sum(1 for text, i in after.items() if before.get(text) == i)
        raise UserError(
            f"portllm: the vocabularies of the old base ({len(before)} tokens) and of this one ({len(after)}) differ; {known} tokens are where "
            "they were. Say remap=tokens to move embedding rows by the tokens' text."
        )
    rows = torch.full((max(after.values()) + 1,), -1)
    for text, i in after.items():
        rows[i] = before.get(text, -1)
    return rows


def port(delta: Delta, base: Base, rows: Tensor | None = None) -> Delta:
    """The change as one of another base. rows: see `token_rows`; None leaves embeddings as they are."""
    weights, tables = weights_of_model(base), _tables(base)
    aliases = dict(base.model.named_parameters(remove_duplicate=False))

    def carried(name: str, entry: Entry) -> Entry:
        if isinstance(entry, New):
            return entry
        tensor = weights.get(name, aliases.get(name))
        if tensor is None:
            raise KeyMismatch(
                f"portllm: {base.name} has no tensor '{name}', which the patch changes. It is no version of the patch's base."
            )
        if rows is not None and name in tables:
            entry = _moved(entry, rows, len(tensor))
        if tuple(entry.shape) != tuple(tensor.shape):
            what = "other vocabularies can be re-mapped with remap=tokens." if name in tables else "it is no version of the patch's base."
            raise ShapeMismatch(
                f"portllm: '{name}' has shape {tuple(tensor.shape)} in {base.name}, {tuple(entry.shape)} in the patch; {what}"
            )
        return entry

    moved = delta.map(carried).read()
    settings = {"from": delta.base, "tokens": rows is not None}
    return replace(moved, base=base.fingerprint).made(
        record("carry over", delta.record, method="portllm", settings=settings, papers=list(ABOUT.papers))
    )


class Portability(NamedTuple):
    """Mean scores of the old base without and with the patch, and of the new one; kept: the new gain as a share of the old one."""

    old: float
    old_patched: float
    new: float
    new_patched: float

    @property
    def kept(self) -> float:
        """(new_patched - new) / (old_patched - old); not a number where the patch did nothing on the old base."""
        gain = self.old_patched - self.old
        return (self.new_patched - self.new) / gain if gain else float("nan")

    def facts(self) -> dict[str, float | None]:
        """For JSON."""
        return self._asdict() | {"kept": self.kept if self.kept == self.kept else None}

    def text(self) -> str:
        """One line for a person."""
        kept = f"{self.kept:.0%} of the gain is kept" if self.kept == self.kept else "the patch gains nothing on the old base"
        old, new = f"old base {self.old:.3f}, patched {self.old_patched:.3f}", f"this one {self.new:.3f}, patched {self.new_patched:.3f}"
        return f"dev score of the {old}; of {new}: {kept}"


def portability(
    patch: Delta, old: Base, new: Base, task: Task, *, split: str = "dev", rows: Tensor | None = None, labels: tuple[str, ...] = ()
) -> Portability:  # fmt: skip
    """What a patch gains on the base it was made from, and carried to another one. labels: of the patch's head, where it has one."""

    def score(base: Base, *changes: WeightChange) -> float:
        records = measure(Specialist(base, changes), task, split=split)
        return sum(r.score for r in records) / len(records)

    return Portability(
        score(old), score(old, WeightChange(patch, labels)), score(new), score(new, WeightChange(port(patch, new, rows), labels))
    )


def _moved(entry: Entry, rows: Tensor, count: int) -> Entry:
    """The change with the rows of the old tokens at those of the new ones. count: rows of the new tensor (padding may exceed tokens)."""
    wanted = torch.full((count,), -1)
    wanted[: min(count, len(rows))] = rows[:count]
    wanted = torch.where(wanted < entry.shape[0], wanted, -1)

    def move(tensor: Tensor) -> Tensor:
        return torch.where((wanted >= 0).view(-1, *[1] * (tensor.ndim - 1)), tensor[wanted.clamp(min=0)], 0)

    if isinstance(entry, LowRank):
        return LowRank(move(entry.up), entry.down, entry.scale)
    value = move(entry.dense())
    return Sparse.of(value) if isinstance(entry, Sparse) else Dense(value)


def _tables(base: Base) -> set[str]:
    """Names of the tensors that have a row for each token."""
    modules = [base.model.get_input_embeddings()]
    if base.family != "encoder":
        modules.append(base.model.get_output_embeddings())
    own = {id(p) for m in modules if m is not None for p in m.parameters()}
    return {n for n, p in base.model.named_parameters(remove_duplicate=False) if id(p) in own}
