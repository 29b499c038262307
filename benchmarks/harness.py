"""The harness's share of a study: what passes outside the model's own work, and where it passes.

    python benchmarks/harness.py [--budget 2000ex] [--methods zero-shot,lora]

The study is that of `metier demo` (its three tasks, ways and budget), in one process on one thread. *Model compute* is what any script that
does the same work has to compute: forward passes (a module called from outside of any module) with the keys and values they keep, losses
and likelihoods over the vocabulary, the choice of the next token, backward passes, clipping and the optimiser's steps. The *harness* is
the rest of `metier.compare`, from the call to the written report: each moment belongs to the innermost part named in `PARTS`. Starting
Python and importing what a study needs come before that and are given beside it. Two clocks: wall, and this process's processor time,
which other work on the machine moves least.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from timing import alternate, write

MODEL = "model: "
PARTS = {
    MODEL + "forward": ("torch.nn:Module.__call__",),
    MODEL + "losses and likelihoods": ("torch.nn.functional:cross_entropy", "torch:Tensor.logsumexp", "torch:Tensor.log_softmax"),
    MODEL + "backward and steps": ("torch:Tensor.backward", "torch.autograd:grad", "torch.nn.utils:clip_grad_norm_", "torch.optim:AdamW.step"),
    MODEL + "keys and values": ("transformers:DynamicCache.batch_select_indices", "metier.model.voices:Past.cache"),
    MODEL + "next tokens": ("metier.model.answers:pick",),
    "loading bases and tasks": ("metier.study.comparing:load_task", "metier.study.comparing:load_base", "metier.decode.emulated_fine_tuning:load_base"),
    "planning": ("metier.study.comparing:make_plan",),
    "showing examples": ("metier.task:Task.prompt",),
    "encoding": ("metier.model:Base.encode_prompt", "metier.model:Base.encode_answer", "metier.model:Base.encode_answers"),
    "batches": ("metier.train.loop:collate", "metier.model.causal:score_tree"),
    "decoding": ("metier.model.answers:Ends.reached", "metier.model.answers:Ends.text"),
    "adapters of peft": ("peft:get_peft_model", "metier.tune.how.lora:low_rank",),
    "trying a model's abilities": ("metier.model.ability:_holds",),
    "keys and versions": ("metier.study.job:Job.key", "metier.study.job:versions"),
    "saving and loading again": ("metier.model:Specialist.save", "metier.model:Specialist.load"),
    "records": ("metier.study.trial:write_records",),
    "statistics and report": ("metier.study.comparing:finish",),
}  # fmt: skip
REST = "the rest"
TASKS = ("world:facts/facts", "world:instructions/cipher", "world:classification/reviews")


class Clock:
    """Seconds by part, wall and processor; a part inside another stops the other's."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.stack, self.since = [REST], self._now()

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def _charge(self) -> None:
        now = self._now()
        for k in (0, 1):
            self.parts[self.stack[-1]][k] += now[k] - self.since[k]
        self.since = now

    def timed(self, part: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """The function, charged to a part. A model's inner modules, and what is its own already, cost nothing to watch."""

        @functools.wraps(run)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self.stack[-1] == part or self.stack[-1].startswith(MODEL):
                return run(*args, **kwargs)
            self._charge()
            self.stack.append(part)
            try:
                return run(*args, **kwargs)
            finally:
                self._charge()
                self.stack.pop()

        return wrapped

    def watch(self) -> None:
        """Put the clock on everything in `PARTS`, for the rest of this process."""
        for part, names in PARTS.items():
            for name in names:
                module, _, path = name.partition(":")
                *owners, last = path.split(".")
                owner = functools.reduce(getattr, owners, importlib.import_module(module))
                setattr(owner, last, self.timed(part, getattr(owner, last)))


def study(budget: str, methods: list[str] | None) -> dict[str, Any]:
    """Shares of the demo's study by part."""
    import metier
    from metier.model import load_base

    torch.set_num_threads(1)
    base = load_base("metier-tiny")
    clock = Clock()
    clock.watch()
    with tempfile.TemporaryDirectory() as out:
        clock.since = clock._now()
        metier.compare(
            TASKS,
            base,
            methods=methods,
            retain=["world:facts/facts-known"],
            seeds=1,
            budget=budget,
            precision="float32",
            out=out,
            quiet=True,
        )
        clock._charge()
    wall, cpu = (sum(v[k] for v in clock.parts.values()) for k in (0, 1))
    rest = [sum(v[k] for p, v in clock.parts.items() if not p.startswith(MODEL)) for k in (0, 1)]
    return {
        "budget": budget, "methods": methods or "default", "wall_seconds": wall, "processor_seconds": cpu,
        "harness_share_wall": rest[0] / wall, "harness_share_processor": rest[1] / cpu,
        "percent_of_processor_time": {p: round(100 * v[1] / cpu, 2) for p, v in sorted(clock.parts.items(), key=lambda kv: -kv[1][1])},
    }  # fmt: skip


def start(rounds: int) -> dict[str, float]:
    """Median seconds of an empty Python, and of one that imports what a study needs."""
    arms = {
        "python": "pass",
        "imports": "import metier.study.comparing, metier.study.report_html, peft, accelerate, transformers.models.llama",
    }
    seconds = alternate(
        {n: lambda c=c: subprocess.run([sys.executable, "-c", c], capture_output=True, check=True) for n, c in arms.items()}, rounds
    )
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="2000ex")
    parser.add_argument("--methods", help="comma-separated; default: the study's own")
    parser.add_argument("--rounds", type=int, default=5, help="of the start-up times")
    a = parser.parse_args()
    write("harness", {"study": study(a.budget, a.methods.split(",") if a.methods else None), "start_seconds": start(a.rounds)})


if __name__ == "__main__":
    main()
