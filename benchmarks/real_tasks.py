"""Every way on real tasks: metier.compare on ../shared/data with MiniLM and stories3M, and full tuning against published results.

    python benchmarks/real_tasks.py --work /tmp/real [--only NAME ...] [--seeds 3] [--table]

Two parts. 'reference': full tuning of MiniLM on whole train and test sets of BANKING77, TREC-6 and SST-2, several epochs,
beside published figures of encoders of its size. 'ways': every way that applies under one small equal budget, on at most
`TEST` test examples. Both go through the study's own trials: kill it and run it again, finished trials stay. The results go
to benchmarks/results/real_tasks.json and the table of docs/benchmarks.md is made from that. Seconds are of the quickest seed's
search and training: other work on the machine, and pauses, only add to them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
from timing import RESULTS

import metier
from metier.task import Task

SHARED = Path(os.environ.get("METIER_SHARED", Path(__file__).resolve().parents[2] / "shared"))
STORED = RESULTS / "real_tasks.json"
TEST = 300


@dataclass(frozen=True)
class Part:
    """One comparison: a base on a task by some methods."""

    name: str
    base: str
    data: str
    methods: tuple[str, ...]
    budget: str
    retain: tuple[str, ...] = ()
    settings: dict[str, dict[str, Any]] | None = None
    whole: bool = False
    published: tuple[float, float] | None = None
    truncate: bool = False
    overrides: dict[str, Any] | None = None


def reference(data: str, budget: str, lr: float, published: tuple[float, float]) -> Part:
    """Full tuning of MiniLM on a whole task, beside what is published for encoders of its size."""
    settings = {"full": {"lr": lr, "batch_size": 32}}
    return Part(f"reference-{data}", "minilm", data, ("full",), budget, settings=settings, whole=True, published=published)


ENCODER = ("zero-shot", "full", "head", "bitfit", "lora", "lt-sft", "calibrate")
CAUSAL = ("zero-shot", "few-shot", "prompt-tuning", "lofit", "full", "head", "bitfit", "lora", "lt-sft", "calibrate")
WRITER = ("zero-shot", "few-shot", "prompt-tuning", "lofit", "full", "head", "bitfit", "lora", "lt-sft", "self-consistency")
READER = ("zero-shot", "rag", "full", "lora", "rag+lora")
STORIES = str(SHARED / "models" / "stories3M")

PARTS = [
    reference("trec", "20000ex", 3e-4, (0.96, 0.97)),
    reference("sst2", "14000ex", 1e-4, (0.90, 0.91)),
    reference("banking77", "45000ex", 3e-4, (0.92, 0.93)),
    *(Part(f"minilm-{d}", "minilm", d, ENCODER, "1500ex") for d in ("trec", "sst2", "financial_phrasebank", "banking77", "clinc150")),
    *(Part(f"stories3M-{d}", STORIES, d, CAUSAL, "1500ex", truncate=True) for d in ("trec", "sst2", "financial_phrasebank")),
    Part("stories3M-gsm8k", STORIES, "gsm8k", WRITER, "1000ex", truncate=True),
    Part("stories3M-policyqa", STORIES, "policyqa", READER, "1000ex", truncate=True, overrides={"documents_from": "context"}),
]  # fmt: skip


def task_of(part: Part) -> Task:
    """The task of a part; rows of train that occur in test are dropped from train, as the cards count them."""
    task = metier.load_task(SHARED / "data" / part.data, allow_leak=True, overrides={"dedupe": True, **(part.overrides or {})})
    return task if part.whole else task.subset(test=TEST, dev=100)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="/tmp/metier-real")
    parser.add_argument("--only", nargs="*", help="names of parts, or beginnings of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only write the results of what is there")
    a = parser.parse_args()
    for part in [p for p in PARTS if not a.only or any(p.name.startswith(o) for o in a.only)]:
        out = Path(a.work) / part.name
        if not a.table:
            base = metier.load_base(part.base, truncate=part.truncate)
            started = time.time()
            metier.compare(
                task_of(part),
                base,
                methods=part.methods,
                budget=part.budget,
                seeds=a.seeds,
                out=out,
                settings=part.settings,
                retain=part.retain,
            )
            print(f"{part.name}: {time.time() - started:.0f} s", flush=True)
    collect(Path(a.work))


def collect(work: Path) -> None:
    """Write the results of all finished parts, and keep those of parts that were measured elsewhere."""
    rows, kept = [], json.loads(STORED.read_text()) if STORED.exists() else {"rows": []}
    machine = {key: kept[key] for key in ("machine", "versions") if key in kept}
    for part in PARTS:
        file = work / part.name / "report.json"
        if not file.exists():
            rows += [row for row in kept["rows"] if row["part"] == part.name]
            continue
        report = json.loads(file.read_text())
        for task in report["tasks"]:
            facts = {
                "part": part.name,
                "base": Path(part.base).name,
                "task": part.data,
                "budget": part.budget,
                "metric": task["metric"],
                "n_test": task["n_test"],
                "published": part.published,
                "measured": report["created"],
            }
            for row in task["methods"]:
                if row["score"] is None:
                    rows.append({**facts, "method": row["method"], "status": row["status"], "reason": row["reason"]})
                    continue
                score, cost = row["score"], row["cost"]
                rows.append({
                    **facts, "method": row["method"], "status": "done", "score": score["value"], "low": score["low"], "high": score["high"],
                    "seeds": len(row["seeds"]), "lost_most": (row["lost_most"] or {}).get("value") if isinstance(row["lost_most"], dict) else row["lost_most"],
                    "ece": (row["calibration"] or {}).get("ece"), "seconds": min(_seconds(file.parent / "trials" / t["key"]) for t in row["trials"]),
                    "trainable": cost.get("trainable_parameters"), "stored_bytes": cost.get("stored_bytes"),
                })  # fmt: skip
        machine = {"machine": report["machine"], "versions": report["versions"]}
    if rows:
        RESULTS.mkdir(exist_ok=True)
        STORED.write_text(json.dumps({"rows": rows, **machine}, indent=1) + "\n", encoding="utf-8")


def _seconds(trial: Path) -> float:
    """Of search and training."""
    cost = json.loads((trial / "trial.json").read_text(encoding="utf-8"))["cost"]
    return float(cost["seconds_search"] + cost["seconds_train"])


if __name__ == "__main__":
    main()
