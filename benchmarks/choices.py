"""Scoring few-shot multiple choice: metier's reader against lm-evaluation-harness's `hf` backend, same model, prompts and cores.

    python benchmarks/choices.py [--examples 200] [--shots 8] [--rounds 3]

Asserts that both choose the same answer for every example. Needs the extra metier[lm-eval].
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

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
    parser.add_argument("--task", default="world:reviews")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    import datasets
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    datasets.disable_progress_bars()
    base = load_base(a.base, chat=False)
    task = shown(load_task(a.task).subset(test=a.examples), a.shots)
    specialist = Specialist(base)
    lm = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=16, max_length=base.max_length)
    rows = [{"prompt": e.fields["prompt"], "label": task.choices.index(e.answer), "choices": list(task.choices)} for e in task.test]
    folder = Path(tempfile.mkdtemp())
    datasets.Dataset.from_list(rows).to_json(folder / "rows.json")
    config = {
        "task": "same_prompts", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "rows.json")}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}", "target_delimiter": " ",
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    from lm_eval.tasks import ConfigurableTask

    theirs, chosen = ConfigurableTask(config=config), {}

    def peer() -> None:
        found = lm_eval.simple_evaluate(model=lm, tasks=[theirs], log_samples=True, bootstrap_iters=0, verbosity="ERROR")
        chosen["peer"] = [
            max(range(len(s["filtered_resps"])), key=lambda i: s["filtered_resps"][i][0]) for s in found["samples"]["same_prompts"]
        ]

    def ours() -> None:
        chosen["ours"] = [task.choices.index(x.output) for x in specialist.answer(task, task.test)]

    seconds = alternate({"ours": ours, "peer": peer}, a.rounds)
    same = sum(x == y for x, y in zip(chosen["ours"], chosen["peer"], strict=True))
    if same != len(rows):
        raise SystemExit(f"answers differ on {len(rows) - same} of {len(rows)} examples")
    facts = {"base": a.base, "task": a.task, "examples": len(rows), "choices": len(task.choices), "shots": a.shots, "same_answers": same}
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
