"""Merging: time and private memory of streamed merges, beside mergekit and the machine's copy bandwidth.

    python benchmarks/merging.py --work FOLDER [--gb 1.1] [--experts 3] [--rows linear ties] [--rounds 3] [--mergekit PATH/mergekit-yaml]

Makes checkpoints (Llama shapes, bf16, random weights; experts with dense, sparse and low-rank changes) in FOLDER unless they are there,
then runs every row in a process of its own, ours and mergekit's in turns. Seconds are of the merge alone ('seconds') and of the whole
process ('wall'); anonymous pages are sampled from /proc/PID/smaps_rollup every 10 ms, less those of a process that only imports.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "merging.json"
HIDDEN, FFN, VOCAB, SHARD = 1536, 4096, 32_000, 450_000_000


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama model."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(layers):
        at = f"model.layers.{i}."
        found |= {at + f"self_attn.{p}_proj.weight": (HIDDEN, HIDDEN) for p in "qkvo"}
        found |= {
            at + "mlp.gate_proj.weight": (FFN, HIDDEN),
            at + "mlp.up_proj.weight": (FFN, HIDDEN),
            at + "mlp.down_proj.weight": (HIDDEN, FFN),
        }
        found |= {at + "input_layernorm.weight": (HIDDEN,), at + "post_attention_layernorm.weight": (HIDDEN,)}
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def make(work: Path, gb: float, experts: int) -> None:
    """The base and its experts, shard by shard."""
    import torch
    from safetensors.torch import save_file

    fixed = 2 * VOCAB * HIDDEN * 2
    layers = max(1, round((gb * 1e9 - fixed) / (2 * (4 * HIDDEN**2 + 3 * HIDDEN * FFN))))
    names, parts, size = shapes(layers), [[]], 0  # type: ignore[var-annotated]
    for name, shape in names.items():
        if size > SHARD:
            parts, size = [*parts, []], 0
        parts[-1].append(name)
        size += 2 * math.prod(shape)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
        "num_hidden_layers": layers, "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": VOCAB, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip
    for k in range(-1, experts):
        folder = work / ("base" if k < 0 else f"ft{k}")
        if (folder / "config.json").exists() and json.loads((folder / "config.json").read_text()) == config:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        where = {n: f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i, part in enumerate(parts) for n in part}
        for i, part in enumerate(parts):
            weights = {n: tensor(i * 1000 + j, names[n], k) for j, n in enumerate(part)}
            save_file(weights, folder / f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors", metadata={"format": "pt"})
        index = {"metadata": {"total_size": sum(2 * math.prod(s) for s in names.values())}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)


def tensor(seed: int, shape: tuple[int, ...], k: int) -> Any:
    """The base's tensor (k < 0), or expert k's: dense, sparse (10 %) and low-rank (8) changes in turns."""
    import torch

    value = torch.ones(shape) if len(shape) == 1 else torch.empty(shape).normal_(0, 0.02, generator=torch.Generator().manual_seed(seed))
    if k < 0:
        return value.bfloat16()
    g, value = torch.Generator().manual_seed(seed + 7919 * (k + 1)), value.bfloat16().float()
    if k % 3 == 2 and len(shape) == 2:
        change = torch.randn(shape[0], 8, generator=g) @ torch.randn(8, shape[1], generator=g) * (0.002 / 8**0.5)
    else:
        change = torch.empty(shape).normal_(0, 0.002, generator=g)
        if k % 3 == 1:
            change *= torch.rand(shape, generator=g) < 0.1
    return (value + change).bfloat16()


def child(row: str, work: Path, experts: int) -> None:
    """One merge in this process; its seconds on stdout. The row 'nothing' only imports."""
    from metier.delta import Checkpoint, diff, full, run

    if row == "nothing":
        return print(0.0)
    merge = getattr(importlib.import_module(f"metier.merge.{row}"), row)()
    begun, base = time.perf_counter(), Checkpoint(work / "base")
    tuned = [Checkpoint(work / f"ft{k}") for k in range(experts)]
    deltas = [full(t) if merge.weights == "full" else diff(base, t) for t in tuned]
    run(merge, base, deltas, work / "out", workers=os.cpu_count() or 1)
    return print(time.perf_counter() - begun)


def recipe(row: str, work: Path, experts: int) -> str:
    """mergekit's YAML of a row."""
    base = "" if row == "linear" else f"base_model: {work}/base\n"
    density = "" if row in ("linear", "task_arithmetic", "slerp") else "      density: 0.2\n"
    models = "".join(f"  - model: {work}/ft{k}\n    parameters:\n      weight: 1.0\n{density}" for k in range(experts))
    return f"merge_method: {row}\n{base}models:\n{models}dtype: bfloat16\n"


def measured(words: list[str]) -> dict[str, float]:
    """Wall seconds, the merge's own seconds, and the peak of anonymous pages of a command in bytes."""
    begun, peak = time.perf_counter(), 0
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.01)
    wall, out = time.perf_counter() - begun, process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: ended with {process.returncode}.")
    lines = out.strip().splitlines()
    return {"wall": wall, "seconds": float(lines[-1]) if lines and lines[-1].replace(".", "").isdigit() else wall, "anonymous": peak}


def anonymous(pid: int) -> int:
    """Private pages of a process, in bytes."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (OSError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Anonymous:")), 0)


def copied(work: Path) -> float:
    """Seconds that a plain copy of the base takes."""
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "out").mkdir()
    begun = time.perf_counter()
    for file in sorted((work / "base").glob("*.safetensors")):
        with file.open("rb", buffering=0) as source, (work / "out" / file.name).open("wb", buffering=0) as target:
            while block := source.read(1 << 22):
                target.write(block)
    return time.perf_counter() - begun


def main() -> None:
    """Make, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gb", type=float, default=1.1)
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=["linear", "task_arithmetic", "ties"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mergekit", default=shutil.which("mergekit-yaml") or "")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child")
    a = parser.parse_args()
    if a.child:
        return child(a.child, a.work, a.experts)
    make(a.work, a.gb, a.experts)
    size = sum(f.stat().st_size for f in (a.work / "base").glob("*.safetensors"))
    ours = [sys.executable, str(Path(__file__)), "--work", str(a.work), "--experts", str(a.experts), "--child"]
    idle = measured([*ours, "nothing"])
    copies, rows = [copied(a.work) for _ in range(3)], {row: {"ours": [], "mergekit": []} for row in a.rows}  # type: ignore[var-annotated]
    for _ in range(a.rounds):
        for row in a.rows:
            shutil.rmtree(a.work / "out", ignore_errors=True)
            rows[row]["ours"].append(measured([*ours, row]))
            if a.mergekit:
                shutil.rmtree(a.work / "out", ignore_errors=True)
                (a.work / "recipe.yml").write_text(recipe(row, a.work.absolute(), a.experts))
                words = [a.mergekit, str(a.work / "recipe.yml"), str(a.work / "out"), "--no-copy-tokenizer", "--quiet"]
                rows[row]["mergekit"].append(measured(words))
        copies.append(copied(a.work))
    shutil.rmtree(a.work / "out", ignore_errors=True)
    found = {"gb": size / 1e9, "experts": a.experts, "rounds": a.rounds, "copy_seconds": statistics.median(copies),
             "largest_tensor_mb": 2 * VOCAB * HIDDEN / 1e6, "idle_anonymous_mb": idle["anonymous"] / 1e6,
             "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
             "rows": {row: summary(row, arms, rows, size, a.experts, statistics.median(copies), idle) for row, arms in rows.items()}}  # fmt: skip
    a.out.parent.mkdir(parents=True, exist_ok=True)
    a.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def summary(row: str, arms: Any, rows: Any, size: int, experts: int, copy: float, idle: dict[str, float]) -> dict[str, Any]:
    """Medians, and the ratios that the targets are about."""

    def median(arm: list[dict[str, float]], key: str) -> float:
        return statistics.median(m[key] for m in arm)

    ours, moved = median(arms["ours"], "seconds"), size * (experts + 2)
    found = {"seconds": ours, "wall": median(arms["ours"], "wall"), "gb_per_second": moved / ours / 1e9,
             "share_of_copy_bandwidth": (moved / ours) / (2 * size / copy),
             "anonymous_mb": (median(arms["ours"], "anonymous") - idle["anonymous"]) / 1e6}  # fmt: skip
    if "linear" in rows:
        found["over_linear"] = ours / median(rows["linear"]["ours"], "seconds")
    if arms["mergekit"]:
        found |= {f"mergekit_{k}": median(arms["mergekit"], k) for k in ("wall", "anonymous")}
        found["times_mergekit"] = median(arms["mergekit"], "wall") / median(arms["ours"], "wall")
    return found


if __name__ == "__main__":
    main()
