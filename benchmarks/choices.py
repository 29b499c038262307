"""Scoring few-shot multiple choice: metier's reader against lm-evaluation-harness's `hf` backend, same model, prompts and cores.

    python benchmarks/choices.py [--examples 200] [--shots 8] [--rounds 3]

Only the scoring is timed: for the peer its model's `loglikelihood` on ready requests, without loading tasks or reports.
Asserts that both choose the same answer for every example. Needs the extra metier[lm-eval].
"""

from __future__ import annotations

import argparse
import os
import statistics

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from timing import alternate, ratio, write

from metier.model import Specialist, load_base
from metier.task import Example, Task, load_task


def shown(task: Task, shots: int) -> Task:
    """The task with fixed exemplars as part of its template, so that both sides see the very same text."""
    rows = task.train[:shots]
    block = "\n\n".join(task.prompt(e).text() + task.separator + e.answer for e in rows)
    examples = tuple(Example(e.id, {"prompt": block + "\n\n" + task.prompt(e).text()}, e.target) for e in task.test)
    return Task(name=task.name, kind="choose", template="{{ prompt }}", metric="accuracy", choices=task.choices, test=examples)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="metier-tiny")
    parser.add_argument("--task", default="world:classification/reviews")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    base = load_base(a.base, chat=False)
    task = shown(load_task(a.task).subset(test=a.examples), a.shots)
    specialist = Specialist(base)
    lm = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=16, max_length=base.max_length)
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=(e.fields["prompt"], " " + c), idx=i)
        for e in task.test
        for i, c in enumerate(task.choices)
    ]
    chosen: dict[str, list[int]] = {}

    def peer() -> None:
        found = [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]
        each = [found[i : i + len(task.choices)] for i in range(0, len(found), len(task.choices))]
        chosen["peer"] = [max(range(len(row)), key=row.__getitem__) for row in each]

    def ours() -> None:
        chosen["ours"] = [task.choices.index(x.output) for x in specialist.answer(task, task.test)]

    seconds = alternate({"ours": ours, "peer": peer}, a.rounds)
    same = sum(x == y for x, y in zip(chosen["ours"], chosen["peer"], strict=True))
    if same != len(task.test):
        raise SystemExit(f"answers differ on {len(task.test) - same} of {len(task.test)} examples")
    facts = {
        "base": a.base,
        "task": a.task,
        "examples": len(task.test),
        "choices": len(task.choices),
        "shots": a.shots,
        "same_answers": same,
    }
    write(
        "choices",
        {
            **facts,
            "seconds": {k: statistics.median(v) for k, v in seconds.items()},
            "peer_over_ours": ratio(seconds["peer"], seconds["ours"]),
        },
    )


if __name__ == "__main__":
    main()
