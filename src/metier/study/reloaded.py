"""Reloaded: a saved specialist is read again, says what the one in memory says, and still writes language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metier.errors import UserError
from metier.merge import _verify
from metier.merge._verdict import Verdict, note
from metier.method import find
from metier.model import Specialist
from metier.task import Task

GAP_EXAMPLES = 8
LEVERS = ("scale", "coef", "lr")  # settings that, lowered, leave more of the base


def reloaded(specialist: Specialist, place: Path, task: Task, methods: Sequence[str]) -> tuple[float | None, Verdict | None]:
    """(reload_gap, verdict; None where no weights change) of what was saved at `place`; both are kept there in metier.json.

    methods: those that made it. Raises UserError or Failed where it does not say what the specialist in memory says.
    """
    again = Specialist.load(place, base=specialist.base)
    gap = reload_gap(specialist, again, task)
    settings = {s.name for m in methods for s in find(m).settings}
    levers = [n for n in LEVERS if n in settings]
    verdict = _verify.saved(specialist, again, f"Lower {' or '.join(levers)}." if levers else "")
    note(place, verdict, reload_gap=gap)
    return gap, verdict


def reload_gap(specialist: Specialist, again: Specialist, task: Task) -> float | None:
    """Largest absolute difference of log-probabilities between the specialist and what was saved, on a few dev (or train) examples.

    None where nothing is compared by likelihood (ranking). Raises UserError where the gap is beyond rounding.
    """
    examples = list(task.dev)[:GAP_EXAMPLES] or list(task.train)[:GAP_EXAMPLES]
    if task.kind == "rank" or not examples:
        return None
    if task.kind == "choose":
        pairs = zip(specialist.choose(task, examples), again.choose(task, examples), strict=True)
    else:
        prompts = ([s.prompt(task, e) for e in examples] for s in (specialist, again))
        golds = [[e.answer] for e in examples]
        pairs = zip(*(s.score(p, golds) for s, p in zip((specialist, again), prompts, strict=True)), strict=True)
    gap = max(float((a - b).abs().nan_to_num(0).max()) for a, b in pairs)
    if gap > 1e-2:
        raise UserError(
            f"saved and loaded again, the specialist answers differently: log-probabilities differ by {gap:.3g}. Please report this."
        )
    return gap
