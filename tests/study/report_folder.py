"""A synthetic study's folder for the report's tests: answers are drawn at fixed rates, no model ran. Fixture data, not results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metier.evaluate.record import Record, write_records

METHODS = {  # method: places, papers, score per task, points lost, seconds to train, tokens per answer, stored bytes, trainable
    "zero-shot": ([], [], (0.31, 0.12, 0.64), 0.0, 0, (60, 6), 0, 0),
    "few-shot": (["in"], [171], (0.36, 0.42, 0.74), 0.0, 4, (310, 6), 4_200, 0),
    "rag": (["in"], [], (0.83, None, 0.64), 0.0, 3, (280, 6), 310_000, 0),
    "prompt-tuning": (["in"], [], (0.37, 0.48, 0.78), 0.0, 55, (68, 6), 16_400, 4_096),
    "lofit": (["activations"], [151], (0.39, 0.55, 0.80), 0.004, 48, (60, 6), 24_600, 6_144),
    "full": (["weights"], [], (0.47, 0.91, 0.88), 0.12, 120, (60, 6), 13_600_000, 3_400_000),
    "head": (["weights"], [], (0.33, 0.30, 0.79), 0.03, 22, (60, 6), 520_000, 131_072),
    "bitfit": (["weights"], [], (0.38, 0.62, 0.82), 0.01, 60, (60, 6), 42_000, 10_240),
    "lora": (["weights"], [], (0.45, 0.90, 0.87), 0.02, 75, (60, 6), 410_000, 98_304),
    "lt-sft": (["weights"], [25], (0.46, 0.89, 0.87), 0.05, 150, (60, 6), 1_360_000, 170_000),
    "calibrate": (["out"], [], (0.31, None, 0.71), 0.0, 1, (60, 6), 310, 2),
    "self-consistency": (["out"], [29], (0.33, 0.14, 0.66), 0.0, 0, (60, 30), 0, 0),
    "emulated-fine-tuning": (["out"], [143], (0.42, 0.80, 0.84), 0.015, 70, (60, 6), 13_600_000, 3_400_000),
    "rag+lora": (["in", "weights"], [], (0.86, None, 0.87), 0.02, 80, (280, 6), 720_000, 98_304),
}
TASKS = ("facts", "skill", "reviews")
LABELS = ["negative", "positive", "mixed"]
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked=2'> & \"quotes\""


def rng_of(*words: Any) -> np.random.Generator:
    return np.random.default_rng([sum(ord(c) * 31**i for i, c in enumerate(str(w))) % 2**32 for w in words])


def answers(task: str, method: str, seed: int, split: str, rate: float, n: int) -> list[Record]:
    """n records with a share of about `rate` right; examples have a difficulty that all methods share."""
    hard = rng_of(task, split).random(n)
    luck = rng_of(task, split, method, seed).normal(0, 0.13, n)
    right = hard + luck < rate
    meta = METHODS[method]
    made = []
    for i in range(n):
        target = LABELS[i % 3] if task == "reviews" else f"answer {i}"
        wrong = LABELS[(i + 1) % 3] if task == "reviews" else ("no idea" if i % 7 else HOSTILE)
        output = target if right[i] else wrong
        sure = float(np.clip(0.55 + 0.4 * (rate - hard[i]) + luck[i], 0.34, 0.99))
        others = [np.log((1 - sure) / 2)] * 3
        choices = LABELS if task == "reviews" else None
        logprobs = [np.log(sure) if c == output else float(o) for c, o in zip(LABELS, others, strict=True)] if choices else None
        prompt = f"Question {i} about {task}: what is it? {HOSTILE if i % 50 == 0 else 'Some words before it.'}\nAnswer:"
        record = Record(
            example=f"{split}-{i}",
            digest=f"{i:016x}",
            task=task,
            split=split.split("-")[0],
            output=output,
            target=target,
            score=float(right[i]),
        )
        record = replace(record, choices=choices, logprobs=logprobs, confidence=sure, tokens_in=meta[5][0], tokens_out=meta[5][1])
        made.append(replace(record, seconds=0.004 + 2e-5 * sum(meta[5]), prompt_tail=prompt[-200:]))
    return made


def write_trial(out: Path, task: str, method: str, seed: int, n: int, **changes: Any) -> None:
    places, papers, rates, lost, train, (read, wrote), stored, trainable = METHODS[method]
    key = f"{task}--{method}--{seed}"
    rate = rates[TASKS.index(task)]
    part = method.split("+")[-1]
    settings = {part: {"rate": 3e-4, "steps": 200}} if train > 10 else {}
    trial: dict[str, Any] = {
        "key": key, "method": method, "task": task, "seed": seed, "status": "done", "error": None, "settings": settings,
        "base": {"name": "tiny-lm", "fingerprint": "3f9c2a7be1d04485"}, "places": places, "papers": papers, "reload_gap": 0.0 if trainable else None,
        "search": [{"method": part, "settings": {"rate": r}, "dev_score": (rate or 0) - r, "seconds": train / 3} for r in (3e-4, 1e-3) if settings],
        "curve": [{"step": s, "loss": 2.4 * 0.97 ** (s / 4) + 0.1 * seed, "dev_score": None, "part": part} for s in range(0, 200, 10)] if settings else [],
        "cost": {
            "seconds_search": 0.6 * train, "seconds_train": float(train) + seed, "seconds_evaluate": n * (0.004 + 2e-5 * (read + wrote)),
            "peak_bytes": 410_000_000 + 4 * trainable, "flops_train": 6e6 * train * 1000 if train > 10 else 0, "flops_evaluate": 7e6 * n * (read + wrote),
            "trainable_parameters": trainable, "stored_bytes": stored, "search_trials": 2 if settings else 0, "examples_seen": 20 * train,
            "tokens_in_per_answer": read, "tokens_out_per_answer": wrote,
        },
        "versions": {"metier": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip
    trial |= changes
    folder = out / "trials" / key
    folder.mkdir(parents=True)
    if trial["status"] == "done" and rate is not None:
        write_records(folder / "records-test.parquet", answers(task, method, seed, "test", rate, n))
        if task == "reviews":
            write_records(folder / "records-ood.parquet", answers(task, method, seed, "ood", rate - 0.06 - 0.8 * lost, n))
        for name in ("arithmetic", "spelling"):
            kept = 0.7 - lost * (1 if name == "arithmetic" else 0.5)
            write_records(folder / f"records-retain-{name}.parquet", answers(name, method, seed, "retain", kept, n))
    (folder / "trial.json").write_text(json.dumps(trial), encoding="utf-8")


def write_study(
    out: Path, n: int = 200, seeds: tuple[int, ...] = (0, 1, 2), methods: tuple[str, ...] = tuple(METHODS), tasks: tuple[str, ...] = TASKS
) -> Path:
    """A whole study: failures, a method that does not apply, a trial that has not run."""
    out.mkdir(parents=True, exist_ok=True)
    metric = {"facts": "exact", "skill": "exact", "reviews": "accuracy"}
    described = [
        {"name": t, "kind": "choose" if t == "reviews" else "generate", "metric": metric[t], "n_train": 400, "n_dev": 100, "n_test": n,
         "n_ood": n if t == "reviews" else 0,
         "documents": 800 if t == "facts" else 0, "source": f"world {t}, seed 0", "warnings": ["3 examples occur twice in train"] if t == "facts" else []}
        for t in tasks
    ]  # fmt: skip
    plan = {
        "created": "2026-11-20T23:44:00+00:00", "command": f"metier compare {' '.join(tasks)} --base tiny-lm --seeds 3 --budget 5m --retain arithmetic -o out",
        "base": {"name": "tiny-lm", "fingerprint": "3f9c2a7be1d04485", "parameters": 3_400_000}, "tasks": described, "retain": ["arithmetic", "spelling"],
        "methods": list(methods), "seeds": list(seeds), "budget": {"seconds": 300}, "estimate": {"seconds": 4200, "bytes": 120_000_000},
        "machine": {"cpu": "2 cores", "memory": "16 GB", "system": "Linux"}, "versions": {"metier": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
    }  # fmt: skip
    (out / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    for task in tasks:
        for method in methods:
            for seed in seeds:
                changes: dict[str, Any] = {}
                if METHODS[method][2][TASKS.index(task)] is None:
                    changes = {"status": "not-applicable", "error": f"{method} needs documents or choices; {task} has none"}
                elif (task, method, seed) == ("skill", "emulated-fine-tuning", 1):
                    changes = {"status": "failed", "error": f"Diverged: the loss is nan at step 40 {HOSTILE}"}
                elif (task, method, seed) == ("reviews", "lt-sft", 2):
                    continue
                write_trial(out, task, method, seed, n, **changes)
    return out
