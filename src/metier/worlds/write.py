"""A world on disk: every task as a folder of JSONL that `metier compare` reads, and the truth as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from metier import atomic
from metier.task.task import SPLITS


def write_world(world: Any, out: Path) -> None:
    """Write OUT/TASK/{train,dev,test,ood}.jsonl, documents.jsonl, task.yaml, and OUT/truth.json, whole or not at all."""
    import yaml

    with atomic.folder(out) as draft:
        for task in world.tasks().values():
            place = draft / task.name
            place.mkdir()
            for split in SPLITS:
                if len(task.split(split)):
                    rows = [{**dict(e.fields), "target": e.target} for e in task.split(split)]
                    (place / f"{split}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
            if task.documents:
                rows = [{"id": d.id, "title": d.title, "text": d.text} for d in task.documents]
                (place / "documents.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
            facts = {
                "name": task.name,
                "kind": task.kind,
                "template": task.template,
                "metric": task.metric,
                "instruction": task.instruction,
            }
            facts |= {
                "separator": task.separator,
                "stop": list(task.stop),
                "max_new_tokens": task.max_new_tokens,
                "fields": {"target": "target"},
            }
            (place / "task.yaml").write_text(yaml.safe_dump({k: v for k, v in facts.items() if v}, sort_keys=False), encoding="utf-8")
        atomic.write_json(draft / "truth.json", world.truth())
