"""Start-up times of the command line, and the share of a study's time that is not model compute.

python benchmarks/startup.py [--rounds 11]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
from timing import alternate, write


def commands(rounds: int) -> dict[str, float]:
    """Median seconds of `metier --help` and `metier methods`, and of an empty Python for comparison."""
    metier = [sys.executable, "-m", "metier.cli.main"]
    arms = {"help": [*metier, "--help"], "methods": [*metier, "methods"], "python": [sys.executable, "-c", "pass"]}
    seconds = alternate({n: lambda c=c: subprocess.run(c, capture_output=True, check=True) for n, c in arms.items()}, rounds)
    return {name: statistics.median(values) for name, values in seconds.items()}


def harness() -> dict[str, float]:
    """A small study's processor time on one thread, and how much of it passed outside forward, loss, backward and optimiser steps."""
    import metier
    from metier.model import load_base

    torch.set_num_threads(1)
    base = load_base("metier-tiny")
    spent = {"model": 0.0}
    depth = 0

    def timed(run: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            started = time.process_time()
            try:
                return run(*args, **kwargs)
            finally:
                depth -= 1
                if depth == 0:
                    spent["model"] += time.process_time() - started

        return wrapped

    base.model.forward = timed_like(base.model.forward, timed)
    base.model.base_model.forward = timed_like(base.model.base_model.forward, timed)
    base.model.lm_head.forward = timed_like(base.model.lm_head.forward, timed)
    torch.Tensor.backward = timed(torch.Tensor.backward)  # type: ignore[method-assign]
    torch.Tensor.logsumexp = timed(torch.Tensor.logsumexp)  # type: ignore[method-assign]
    torch.nn.functional.cross_entropy = timed(torch.nn.functional.cross_entropy)
    torch.nn.utils.clip_grad_norm_ = timed(torch.nn.utils.clip_grad_norm_)
    torch.optim.AdamW.step = timed(torch.optim.AdamW.step)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as out:
        started = time.process_time()
        metier.compare(
            "world:classification/reviews",
            base,
            methods=["zero-shot", "few-shot", "full", "lora"],
            seeds=1,
            budget="2400ex",
            out=out,
            quiet=True,
        )
        wall = time.process_time() - started
    return {"all_seconds": wall, "model_seconds": spent["model"], "harness_share": 1 - spent["model"] / wall}


def timed_like(forward: Any, timed: Any) -> Any:
    """The forward with its time taken and its signature kept (the reader looks at it)."""
    import functools

    return functools.wraps(forward)(timed(forward))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    a = parser.parse_args()
    write("startup", {"seconds": commands(a.rounds), "harness": harness()})


if __name__ == "__main__":
    main()
