"""Merging: time and private memory of streamed merges, beside mergekit and the machine's copy bandwidth.

    python benchmarks/merging.py --work FOLDER --mergekit PATH/mergekit-yaml     # all rows, 1.1 GB, three experts
    python benchmarks/merging.py --work FOLDER --mergekit PATH/mergekit-yaml --cold     # the same on memory that the host must give first
    python benchmarks/merging.py --work FOLDER --mergekit '' --rows linear ties breadcrumbs     # ours alone, beside linear
    python benchmarks/merging.py --work FOLDER --scaling                         # cost against bytes and experts: docs/img/merging.svg
    python benchmarks/merging.py --work FOLDER --big                             # memory at 8 GB and more
    python benchmarks/merging.py --work FOLDER --show                            # bytes that `metier delta show` reads

Makes checkpoints (Llama shapes, bf16, random weights; experts with dense, sparse and low-rank changes) in FOLDER unless they are there,
then runs every row, ours and mergekit's in turns, with settings that ask both for the same mathematics. Ours is measured twice: as the
command that a person types (`metier merge ... --no-verify`; mergekit verifies nothing either), and as a process that only calls the
merge, which tells the seconds of the merge alone ('seconds') and its processor time ('cpu', which other work on the machine disturbs
less); anonymous pages (RssAnon of the process and all its descendants) are sampled every 10 ms, less those of a process that only imports.
The copy is the faster one of blocks of 64 KiB and of 4 MiB.

Ours is a copy of the code, made when a measurement begins. FOLDER/measured.jsonl takes every measurement when it is made; a killed run
goes on from there, and begins anew where the code has changed since. RESULTS is written after every round.

A virtual machine gives memory that has been free for two seconds back to its host, and taking it again costs a merge more than its own
work. So every arm, copies too, begins when all inputs have been read and the output of the one before has just been removed; with --cold, REST
after that, and what was left to be written has been. The order of the arms is turned in every other round.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "merging.json"
PICTURE = REPOSITORY / "docs" / "img" / "merging.svg"
HIDDEN, FFN, VOCAB, SHARD = 1536, 4096, 32_000, 450_000_000
FILLED = 1 << 19  # bytes at the head of each tensor that are not zero in the checkpoints of --big, which are sparse files

PAUSE, REST = 0.5, 3.0  # seconds
ABOVE = 100.0  # MB of anonymous pages above the interpreter that a merge may take beside three times the largest tensor
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """One merge in both programs. ours: settings; coef: of every expert; theirs: of all experts; top: of the merge; experts: how many (0: all)."""

    ours: Mapping[str, Any] = NOTHING
    coef: float | None = None
    theirs: Mapping[str, Any] = NOTHING
    top: Mapping[str, Any] = NOTHING
    experts: int = 0
    base: str | None = "base"


HALF = {"weight": 0.5}
ROWS = {
    "linear": Row(theirs={"weight": 1.0}, base=None),
    "task_arithmetic": Row({}, 0.5, HALF),
    "slerp": Row({"t": 0.5}, None, {}, {"t": 0.5}, 2, "ft0"),
    "ties": Row({"density": 0.2}, 0.5, HALF | {"density": 0.2}),
    "dare_ties": Row({"density": 0.2}, 0.5, HALF | {"density": 0.2}, {"normalize": True}),
    "breadcrumbs": Row({"density": 0.2, "gamma": 0.01}, 0.5, HALF | {"density": 0.2, "gamma": 0.01}),
    "nuslerp": Row({}, 0.5, HALF, {}, 2, None),
    "karcher": Row({}, None, {}, {}, 0, None),
    "model_stock": Row(),
    "sce": Row({"density": 0.1}, None, {}, {"select_topk": 0.1}),
    "della": Row({"density": 0.5, "epsilon": 0.15}, 0.5, HALF | {"density": 0.5, "epsilon": 0.15}),
    "dare_linear": Row({"density": 0.2}, 0.5, HALF | {"density": 0.2}),
    "della_linear": Row({"density": 0.5, "epsilon": 0.15}, 0.5, HALF | {"density": 0.5, "epsilon": 0.15}),
    "breadcrumbs_ties": Row({"density": 0.2, "gamma": 0.01}, 0.5, HALF | {"density": 0.2, "gamma": 0.01}, {"normalize": True}),
    "multislerp": Row({}, 0.5, HALF, {}, 0, None),
    "nearswap": Row({"t": 0.001}, None, {}, {"t": 0.001}, 1),
    "arcee_fusion": Row({}, None, {}, {}, 2, "ft0"),
    "ram": Row({"epsilon": 1e-5}, None, {}, {"epsilon": 1e-5}),
    "passthrough": Row({}, None, {}, {}, 1, None),
}


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


def layers_of(gb: float) -> int:
    """How many layers make a checkpoint of this size."""
    return max(1, round((gb * 1e9 - 4 * VOCAB * HIDDEN) / (2 * (4 * HIDDEN**2 + 3 * HIDDEN * FFN))))


def configuration(layers: int) -> dict[str, Any]:
    """config.json of a Llama model."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FFN,
        "num_hidden_layers": layers, "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": VOCAB, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip


def make(work: Path, gb: float, experts: int) -> None:
    """The base and its experts, shard by shard."""
    import torch
    from safetensors.torch import save_file

    layers = layers_of(gb)
    names, parts, size = shapes(layers), [[]], 0  # type: ignore[var-annotated]
    for name, shape in names.items():
        if size > SHARD:
            parts, size = [*parts, []], 0
        parts[-1].append(name)
        size += 2 * math.prod(shape)
    config = configuration(layers)
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


def child(name: str, work: Path, experts: int) -> None:
    """One merge in this process; its seconds on stdout. The row 'nothing' only imports."""
    from metier import progress
    from metier.delta import Checkpoint, diff, full, run

    progress.for_terminal()  # as the command does
    if name == "nothing":
        return print(0.0)
    row, merge = ROWS[name], made(name)
    begun, base = time.perf_counter(), Checkpoint(work / "base")
    tuned = [Checkpoint(work / f"ft{k}") for k in range(row.experts or experts)]
    deltas = [full(t) if merge.weights == "full" else diff(base, t) for t in tuned]
    coefs = None if row.coef is None else [row.coef] * len(deltas)
    run(merge, base, deltas, work / "out", coefs=coefs, workers=os.cpu_count() or 1)
    return print(time.perf_counter() - begun)


def made(name: str) -> Any:
    """The `Merge` of a row."""
    return getattr(importlib.import_module(f"metier.merge.{name}"), name)(**ROWS[name].ours)


def recipe(name: str, work: Path, experts: int) -> str:
    """mergekit's YAML of a row (JSON is YAML)."""
    row = ROWS[name]
    models = [{"model": f"{work}/ft{k}", "parameters": dict(row.theirs)} for k in range(row.experts or experts)]
    base = {"base_model": f"{work}/{row.base}"} if row.base else {}
    return json.dumps({"merge_method": name, **base, "models": models, "parameters": dict(row.top), "dtype": "bfloat16"})


class Kept:
    """Measurements of one state of the code: what is in the file already is not measured again."""

    def __init__(self, work: Path) -> None:
        rooms = REPOSITORY / "src" / "metier"
        files = [
            *sorted(f for f in (rooms / "delta").rglob("*") if f.suffix in (".py", ".c")),
            *sorted((rooms / "merge").glob("_*.py")),
            *(rooms / f for f in ("method.py", "cli/main.py", "cli/merge.py")),
            *(rooms / f"merge/{r}.py" for r in ROWS),
        ]
        self.code = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]
        self.place, self.source = work / "measured.jsonl", work / f"code-{self.code}"
        work.mkdir(parents=True, exist_ok=True)
        if not self.source.exists():  # children import this copy: the tree may be worked on meanwhile
            shutil.copytree(REPOSITORY / "src", draft := self.source.with_suffix(".part"), dirs_exist_ok=True)
            draft.rename(self.source)
        lines = self.place.read_text().splitlines() if self.place.is_file() else []
        self.known = {json.dumps(key): found for key, found in map(json.loads, lines)}

    def __call__(self, key: Sequence[Any], make: Callable[[], Any]) -> Any:
        """The measurement of this key; made and kept where there is none."""
        text = json.dumps([self.code, *key])
        if text not in self.known:
            self.known[text] = make()
            with self.place.open("a") as file:
                file.write(json.dumps([json.loads(text), self.known[text]]) + "\n")
            print(f"{key}: {self.known[text]}", file=sys.stderr, flush=True)
        return self.known[text]

    def python(self, *words: Any) -> dict[str, float]:
        """Measure a process of this python that imports the kept copy of the code."""
        return measured([sys.executable, *map(str, words)], {"PYTHONPATH": str(self.source.absolute())})


def measured(words: list[str], environment: Mapping[str, str] = NOTHING) -> dict[str, float]:
    """Wall seconds, the merge's own, those of the processor, and bytes: the peak of anonymous pages, and what was read from the disk."""
    begun, peak, before = time.perf_counter(), 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, stdout=out, stderr=errors, env={**os.environ, **environment})
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.01)
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        out.seek(0), errors.seek(0)
        lines, wrong = out.read().strip().splitlines(), errors.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: ended with {process.returncode}.\n{wrong[-2000:]}")
    seconds = float(lines[-1]) if lines and lines[-1].replace(".", "").isdigit() else wall
    return {"wall": wall, "seconds": seconds, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "anonymous": peak, "from_disk": (after.ru_inblock - before.ru_inblock) * 512}  # fmt: skip


def ready(work: Path, cold: bool = False) -> None:
    """All inputs read, no output. cold: nothing left to be written, and the memory that the output took has gone back to the host."""
    if cold:
        shutil.rmtree(work / "out", ignore_errors=True)
        os.sync()
    for file in work.glob("*/*.safetensors"):
        if file.parent.name != "out":
            read(file)
    time.sleep(REST if cold else PAUSE)
    shutil.rmtree(work / "out", ignore_errors=True)


def anonymous(pid: int) -> int:
    """Private pages of a process and of all that descend from it, in bytes."""
    place = Path(f"/proc/{pid}")
    try:
        status = (place / "status").read_text()
        children = [child for task in (place / "task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:  # it has ended meanwhile
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), 0)
    return own + sum(anonymous(int(child)) for child in children)


def copied(work: Path, cold: bool) -> float:
    """Seconds that a plain copy of the base takes, with the better of two sizes of blocks."""
    return min(_copied(work, 1 << 16, cold), _copied(work, 1 << 22, cold))


def _copied(work: Path, size: int, cold: bool) -> float:
    ready(work, cold)
    begun = time.perf_counter()
    (work / "out").mkdir()
    for file in sorted((work / "base").glob("*.safetensors")):
        with file.open("rb", buffering=0) as source, (work / "out" / file.name).open("wb", buffering=0) as target:
            while block := source.read(size):
                target.write(block)
    return time.perf_counter() - begun


def ours(kept: Kept, work: Path, experts: int, row: str, cold: bool = False) -> dict[str, float]:
    """One of our merges, measured in a process of its own."""
    ready(work, cold)
    return kept.python(Path(__file__), "--work", work, "--experts", experts, "--child", row)


def command(kept: Kept, work: Path, experts: int, row: str, cold: bool = False) -> dict[str, float]:
    """The same merge as a person asks for it."""
    models = [work / f"ft{k}" for k in range(ROWS[row].experts or experts)]
    flags = [word for name, value in ROWS[row].ours.items() for word in (f"--{name}", value)]
    coef = [] if ROWS[row].coef is None else ["--coef", ",".join([str(ROWS[row].coef)] * len(models))]
    words = ["merge", row.replace("_", "-"), *models, "--base", work / "base", *flags, *coef, "-o", work / "out", "--no-verify"]
    ready(work, cold)
    return kept.python("-c", "from metier.cli.main import main; main()", *words)


def theirs(work: Path, experts: int, row: str, mergekit: str, cold: bool = False) -> dict[str, float]:
    """The same merge by mergekit."""
    (work / "recipe.yml").write_text(recipe(row, work.absolute(), experts))
    ready(work, cold)
    return measured([mergekit, str(work / "recipe.yml"), str(work / "out"), "--no-copy-tokenizer", "--quiet"])


def main() -> None:
    """Make, measure, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--gb", type=float, default=None, help="size of one checkpoint (1.1; 8.5 with --big; the largest with --scaling, 1.0)"
    )
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mergekit", default=shutil.which("mergekit-yaml") or "")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--cold", action="store_true", help="on memory that the host of the machine must give first")
    parser.add_argument("--scaling", action="store_true", help="cost against bytes and experts")
    parser.add_argument("--big", action="store_true", help="memory with checkpoints that do not fit into it")
    parser.add_argument("--show", action="store_true", help="bytes that `metier delta show` reads")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.child:
        return child(a.child, a.work, a.experts)
    kept = Kept(a.work)
    if a.scaling:
        return store(
            a.out, "scaling", kept, scaling(kept, a.work, a.gb or 1.0, a.rows if len(a.rows) < len(ROWS) else ["linear", "ties"], a.rounds)
        )
    if a.big:
        return store(a.out, "big", kept, big(kept, a.work / "big", a.gb or 8.5))
    if a.show:
        return store(a.out, "show", kept, show(kept, a.work / "show", a.gb or 0.5))
    for i in range(a.rounds):
        found = peers(kept, a.work, a.gb or 1.1, a.experts, a.rows, i + 1, a.mergekit, cold=a.cold)
        store(a.out, ("peers" if a.mergekit else "ours") + (", cold memory" if a.cold else ""), kept, found)
    return None


def peers(
    kept: Kept, work: Path, gb: float, experts: int, names: Sequence[str], rounds: int, mergekit: str, *, cold: bool
) -> dict[str, Any]:
    """All rows, ours and mergekit's in turns, with a copy before every round."""
    state = ["cold"] if cold else []
    make(work, gb, experts)
    size, nothing = size_of(work / "base"), partial(kept.python, Path(__file__), "--work", work, "--child", "nothing")
    idle = min((kept([gb, i, "nothing"], nothing) for i in range(rounds)), key=lambda m: m["wall"])
    helps = [kept([gb, i, "mergekit --help"], partial(measured, [mergekit, "--help"])) for i in range(rounds if mergekit else 0)]
    start = min((m["wall"] for m in helps), default=0.0)
    copies, rows = [], {row: {"ours": [], "command": [], "mergekit": []} for row in names}  # type: ignore[var-annotated]
    for i in range(rounds):
        copies += kept([gb, i, "copy", *state], lambda: [copied(work, cold) for _ in range(3)])
        for row, arms in rows.items():
            key = [gb, experts, i, row, *state]
            take = {"mergekit": partial(theirs, work, experts, row, mergekit, cold), "command": partial(command, kept, work, experts, row, cold),
                    "ours": partial(ours, kept, work, experts, row, cold)}  # fmt: skip
            for arm in [a for a in (take if i % 2 == 0 else reversed(take)) if mergekit or a != "mergekit"]:
                arms[arm].append(kept([*key, arm], take[arm]))
    shutil.rmtree(work / "out", ignore_errors=True)
    copy = statistics.median(copies)
    return {"gb": size / 1e9, "experts": experts, "copy_seconds": copy, "largest_tensor_mb": 2 * VOCAB * HIDDEN / 1e6,
            "interpreter_mb": idle["anonymous"] / 1e6, "interpreter_cpu": idle["cpu"], "limit_mb": limit(),
            "start_seconds": idle["wall"], "mergekit_start_seconds": start,
            "rows": {row: summary(row, arms, rows, size, experts, copy, idle, start) for row, arms in rows.items()}}  # fmt: skip


def read(file: Path) -> None:
    """Read a file once, so that who reads it next does not wait for the disk."""
    with file.open("rb", buffering=0) as opened:
        while opened.read(1 << 22):
            pass


def limit() -> float:
    """MB above the interpreter that a merge may take."""
    return ABOVE + 3 * 2 * VOCAB * HIDDEN / 1e6


def above(found: float, idle: Mapping[str, float]) -> dict[str, Any]:
    """Anonymous pages in MB above the interpreter's, and whether they are within the limit."""
    return {"mb_above_interpreter": (more := (found - idle["anonymous"]) / 1e6), "within_limit": more <= limit()}


def summary(
    row: str, arms: Any, rows: Any, size: int, experts: int, copy: float, idle: dict[str, float], start: float
) -> dict[str, Any]:  # fmt: skip
    """Medians, and the ratios that the targets are about: of whole commands, and of both merges less what the programs take to begin."""

    def median(arm: list[dict[str, float]], key: str) -> float:
        return statistics.median(m[key] for m in arm)

    seconds = median(arms["ours"], "seconds")
    moved = size * ((ROWS[row].experts or experts) + (1 if made(row).weights == "full" else 2))  # experts and base read, output written
    found = {"rounds": len(arms["ours"]), "seconds": seconds, "command": median(arms["command"], "wall"),
             "wall": median(arms["ours"], "wall"), "cpu": median(arms["ours"], "cpu") - idle["cpu"],
             "gb_per_second": moved / seconds / 1e9, "share_of_copy_bandwidth": (moved / seconds) / (2 * size / copy),
             **above(max(m["anonymous"] for m in arms["ours"]), idle)}  # fmt: skip
    if "linear" in rows:
        linear = [m["wall"] for m in rows["linear"]["command"]]
        found["over_linear"] = statistics.median(m["wall"] / w for m, w in zip(arms["command"], linear, strict=True))
        found["over_linear_less_start"] = seconds / median(rows["linear"]["ours"], "seconds")
    if arms["mergekit"]:
        found |= {f"mergekit_{k}": median(arms["mergekit"], k) for k in ("wall", "cpu")}
        found["mergekit_anonymous_mb"] = median(arms["mergekit"], "anonymous") / 1e6
        walls = [t["wall"] for t in arms["mergekit"]]
        found["times_mergekit"] = statistics.median(t / c["wall"] for c, t in zip(arms["command"], walls, strict=True))
        found["times_mergekit_less_start"] = statistics.median((t - start) / o["seconds"] for o, t in zip(arms["ours"], walls, strict=True))
    return found


def scaling(kept: Kept, work: Path, most: float, names: Sequence[str], rounds: int) -> dict[str, Any]:
    """Processor and wall seconds against bytes (three experts) and experts (the middle size); a picture of the former."""
    points: list[dict[str, Any]] = []
    for gb, experts in ((most / 4, 3), (most / 2, 3), (most, 3), (most / 2, 1), (most / 2, 2), (most / 2, 5)):
        place = work / f"scaling-{gb}"
        make(place, gb, experts)
        for row in names:
            found = [kept(["scaling", gb, experts, i, row], partial(ours, kept, place, experts, row)) for i in range(rounds)]
            size = size_of(place / "base")
            points.append({"row": row, "gb": size / 1e9, "experts": experts, "read_gb": size * (experts + 1) / 1e9,
                           **{k: min(f[k] for f in found) for k in ("seconds", "cpu")}})  # fmt: skip
        shutil.rmtree(place / "out", ignore_errors=True)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture(points), encoding="utf-8")
    return {"points": points}


def picture(points: Sequence[dict[str, Any]]) -> str:
    """Seconds over gigabytes read, one colour for each row; filled: more bytes, hollow: more experts."""
    wide, high, edge = 640, 400, 50
    most_x, most_y = max(p["read_gb"] for p in points), max(p["seconds"] for p in points)
    colours = dict(zip(dict.fromkeys(p["row"] for p in points), ("#1b6ca8", "#c8553d", "#3c8d5a", "#7a4f9a"), strict=False))

    def at(p: dict[str, Any]) -> tuple[float, float]:
        return edge + p["read_gb"] / most_x * (wide - 2 * edge), high - edge - p["seconds"] / most_y * (high - 2 * edge)

    lines = [f'<line x1="{edge}" y1="{high - edge}" x2="{wide - edge}" y2="{high - edge}" stroke="#888"/>',
             f'<line x1="{edge}" y1="{high - edge}" x2="{edge}" y2="{edge}" stroke="#888"/>',
             f'<text x="{wide / 2}" y="{high - 12}" text-anchor="middle">GB read, up to {most_x:.1f}</text>',
             f'<text x="{edge}" y="{edge - 14}">seconds, up to {most_y:.2f}; filled: larger models, hollow: more experts</text>']  # fmt: skip
    for i, (row, colour) in enumerate(colours.items()):
        mine = sorted((p for p in points if p["row"] == row), key=lambda p: p["read_gb"])
        lines.append(f'<text x="{edge + 12}" y="{edge + 16 + 18 * i}" fill="{colour}">{row}</text>')
        lines += [f'<circle cx="{at(p)[0]:.1f}" cy="{at(p)[1]:.1f}" r="5" stroke="{colour}" fill="{colour if p["experts"] == 3 else "none"}"/>'
                  for p in mine]  # fmt: skip
        slope = sum(p["read_gb"] * p["seconds"] for p in mine) / sum(p["read_gb"] ** 2 for p in mine)
        end = at({"read_gb": most_x, "seconds": slope * most_x})
        lines.append(f'<line x1="{edge}" y1="{high - edge}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}" stroke-dasharray="4 4"/>')
    body = "\n".join(lines)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="13">\n{body}\n</svg>\n'


def big(kept: Kept, work: Path, gb: float) -> dict[str, Any]:
    """Private memory with checkpoints of `gb` each: sparse files, zero but for the head of each tensor; the output is written in full."""
    need = gb * 1e9 * 1.2
    if shutil.disk_usage(work.parent).free < need:
        raise SystemExit(f"{work}: the output takes {need / 1e9:.0f} GB, there are not as many. Choose another folder with --work.")
    for k in range(-1, 2):
        sparse(work / ("base" if k < 0 else f"ft{k}"), gb, k)
    idle = kept(["big", "nothing"], partial(kept.python, Path(__file__), "--work", work, "--child", "nothing"))
    rows = {}
    for row in ("linear", "ties", "dare_ties"):
        found = kept(["big", gb, row], partial(ours, kept, work, 2, row))
        rows[row] = {"seconds": found["seconds"], **above(found["anonymous"], idle)}
    found = kept(["big", gb, "verified"], partial(verified, kept, work))
    rows["linear, verified"] = {"seconds": found["wall"], **above(found["anonymous"], idle)}
    size = size_of(work / "base") / 1e9
    shutil.rmtree(work)
    return {"gb": size, "experts": 2, "interpreter_mb": idle["anonymous"] / 1e6, "limit_mb": limit(), "rows": rows}


def show(kept: Kept, work: Path, gb: float) -> dict[str, Any]:
    """`metier delta show` of a stored change and of a checkpoint beside its base: bytes read from the disk over the files' size."""
    make(work, gb, 1)
    code = "from metier.cli.main import main; main()"
    if not (work / "delta").is_dir():
        kept.python("-c", code, "delta", "diff", work / "base", work / "ft0", "-o", work / "delta", "--no-verify")
    found = {}
    for name, words in (("stored", [work / "delta"]), ("checkpoint", [work / "ft0", "--base", work / "base"])):
        files = [f for word in words if isinstance(word, Path) for f in word.glob("*.safetensors")]
        shown = partial(kept.python, "-c", code, "delta", "show", *words, "--json")
        warm, size = kept(["show", gb, name, "cached"], shown), sum(f.stat().st_size for f in files)
        forget(files)
        cold = kept(["show", gb, name, "from disk"], shown)
        found[name] = {"gb": size / 1e9, "read_from_disk_over_size": cold["from_disk"] / size, "wall_cached": warm["wall"],
                       "wall_from_disk": cold["wall"], "anonymous_mb": warm["anonymous"] / 1e6}  # fmt: skip
    return found


def verified(kept: Kept, work: Path) -> dict[str, float]:
    """`metier merge linear` as a user calls it: the result is loaded again and, beside base and merge in memory, asked for the same texts."""
    from metier.model import load_base

    load_base("metier-tiny", device="cpu").tokenizer.save_pretrained(work / "base")
    shutil.rmtree(work / "out", ignore_errors=True)
    words = ["merge", "linear", work / "ft0", work / "ft1", "--base", work / "base", "-o", work / "out"]
    return kept.python("-c", "from metier.cli.main import main; main()", *words)


def forget(files: Sequence[Path]) -> None:
    """Drop files from the system's cache."""
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sparse(folder: Path, gb: float, k: int) -> None:
    """A checkpoint of which only the head of each tensor takes space on the disk."""
    import torch

    from metier.delta.checkpoint import dump_index
    from metier.delta.stored import layout, raw

    layers = layers_of(gb)
    names = shapes(layers)
    folder.mkdir(parents=True, exist_ok=True)
    files = [list(names)[i::4] for i in range(4)]
    where = {n: f"model-{i + 1:05d}-of-00004.safetensors" for i, part in enumerate(files) for n in part}
    for i, part in enumerate(files):
        head, facts = layout([(n, torch.bfloat16, names[n]) for n in part], {"format": "pt"})
        with (folder / f"model-{i + 1:05d}-of-00004.safetensors").open("wb") as file:
            file.write(head)
            for j, n in enumerate(part):
                count = min(math.prod(names[n]), FILLED // 2)
                file.seek(len(head) + facts[n].begin)
                file.write(raw(tensor(i * 10_000 + j, (1, count), k)))
            file.truncate(len(head) + max(f.end for f in facts.values()))
    (folder / "model.safetensors.index.json").write_text(dump_index(where, sum(2 * math.prod(s) for s in names.values())))
    (folder / "config.json").write_text(json.dumps(configuration(layers)))


def size_of(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(f.stat().st_size for f in folder.glob("*.safetensors"))


def store(place: Path, part: str, kept: Kept, found: dict[str, Any]) -> None:
    """Put one part into the results, with the machine and the code it was measured on; other parts, and rows of the same code, stay."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}"
    known = json.loads(place.read_text()) if place.is_file() else {}
    if "rows" in found and (before := known.get(part, {})).get("code") == kept.code:
        found = found | {"rows": before["rows"] | found["rows"]}
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(known | {part: {"machine": machine, "code": kept.code} | found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
