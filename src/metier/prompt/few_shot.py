"""Few-shot: solved examples of the train split are shown before the query; no weight moves.

Paper:       Brown et al. 2020, arXiv:2005.14165, section 2 ("few-shot"); row 171. Exemplars chosen per query: Liu et al. 2022,
             arXiv:2101.06804 ('nearest').
Formula:     p(y | x_1, y_1, ..., x_k, y_k, x).
Shapes:      embeddings of the pool for 'nearest': (pool, hidden), normalised.
Units:       shots and pool, examples.
Randomness:  which examples are shown ('random', 'balanced') and which make up a pool that is smaller than train, by the run's seed.
Cost:        the tokens of the exemplars with every answer; fixed ones are read once for a batch of prompts. 'nearest' embeds
             the pool once and every query.
Deviations:  the number of exemplars is chosen on dev (the paper: as many as fit, 10 to 100). 'balanced' takes the labels in
             turn; without a fixed set of labels it is 'random'. 'nearest' uses the plain base, without the start's other
             changes. Exemplars that would not fit beside a query are left out, from the far end. An example is never shown
             itself, nor a copy of itself.
Errors:      UserError where train is empty.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

from metier import check
from metier.errors import UserError
from metier.method import About
from metier.model import Specialist
from metier.model.known import Known
from metier.prompt.exemplars import Exemplars, Solved
from metier.task import Example, Task
from metier.train import Run

ABOUT = About(
    place="in", effort=3.0, papers=(171,), families=("causal", "seq2seq"), search={"shots": (2, 4, 8), "pick": ("balanced", "bm25")}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of few-shot."""

    shots: int = 4
    """How many exemplars are shown."""
    pick: Literal["random", "balanced", "bm25", "nearest"] = "balanced"
    """Which: the same for all queries, drawn ('random') or drawn from the labels in turn ('balanced'); or for each query
    those that share words with it ('bm25') or whose embeddings are nearest ('nearest')."""
    order: Literal["best-last", "best-first"] = "best-last"
    """Whether the exemplar most like the query stands last, next to it, or first."""
    pool: int = 5000
    """At most so many train examples are searched by 'bm25' and 'nearest'."""

    def __post_init__(self) -> None:
        check.integer("shots", self.shots, low=1)
        check.integer("pool", self.pool, low=1)
        check.one_of("pick", self.pick, ("random", "balanced", "bm25", "nearest"))
        check.one_of("order", self.order, ("best-last", "best-first"))


def few_shot(start: Specialist, task: Task, settings: Settings, run: Run) -> Exemplars:
    """Choose exemplars, or a pool to choose from; the change shows them."""
    unique = list({e.digest(): e for e in task.train}.values())
    if not unique:
        raise UserError(f"few-shot: task {task.name} has no train examples to show. Give a train split.")
    drawn = random.Random(run.seed).sample(unique, len(unique))
    if settings.pick in ("random", "balanced"):
        labelled = settings.pick == "balanced" and task.kind == "choose" and all(e.choices is None for e in drawn)
        taken = (in_turn(drawn) if labelled else drawn)[: settings.shots + 1]  # one to spare, for when an example is itself shown
    else:
        taken = drawn[: settings.pool]
    pool = [Solved(start.prompt(task, e).query, e.answer, e.digest()) for e in taken]
    base = Known.reading(start, task)
    vectors = base.embed([s.query for s in pool]) if settings.pick == "nearest" else None
    change = Exemplars(tuple(pool), base, settings.shots, settings.pick, settings.order, vectors)
    return _told(change, start, task, pool, run)


def in_turn(examples: Sequence[Example]) -> list[Example]:
    """Examples re-ordered so that their answers take turns, in the order in which the answers first come."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.answer, []).append(example)
    return [e for e in chain.from_iterable(zip_longest(*groups.values())) if e is not None]


def _told(change: Exemplars, start: Specialist, task: Task, pool: Sequence[Solved], run: Run) -> Exemplars:
    """The change with a note of how many exemplars fit; said aloud where not all do."""
    seen = (task.dev or task.train)[:200]
    counts = [len(change.fitting(start.prompt(task, e), e, task)) for e in seen]
    short = sum(c < change.shots for c in counts)
    if short and run.say:
        why = f"train has only {len(pool)} different examples" if len(pool) <= change.shots else "the base cannot read more"
        run.say(f"few-shot: {short} of {len(counts)} prompts show fewer than {change.shots} exemplars (the fewest {min(counts)}): {why}")
    return change.noting({"prompts": len(counts), "with_fewer_exemplars": short, "fewest": min(counts)})
