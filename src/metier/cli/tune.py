"""`metier tune`: one method on one task, saved as a specialist."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metier.cli import options

if TYPE_CHECKING:
    from metier.merge._verdict import Verdict


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(tune)


def tune(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="A method, or a chain 'rag+lora'. `metier methods` lists them.")],
    task: Annotated[str, typer.Argument(help="A task file, folder, world:NAME or hf:NAME.")],
    base: options.BaseName = "metier-tiny",
    out: options.Out = "specialist",
    budget: Annotated[str | None, typer.Option(help="What it may spend: 90s, 5m, 2000ex, 1e6tok.")] = None,
    seed: options.Seed = 0,
    precision: options.Precision = None,
    accumulate: options.Accumulate = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace the specialist that is in OUT.")] = False,
    allow_leak: options.AllowLeak = False,
    family: options.Family = None,
    dtype: options.Dtype = "float32",
    device: options.Device = "auto",
    chat: options.Chat = None,
    truncate: options.Truncate = False,
    as_json: options.AsJson = False,
) -> None:
    """Specialise BASE on TASK by METHOD and save the specialist in OUT.

    The method's settings are flags too: `metier tune lora TASK --rank 16 --lr 1e-3`. `metier methods show lora` lists them.
    Nothing is searched: what is not given keeps its default. Run the same command again after an interruption.
    """
    from metier import check, progress
    from metier.study.plan import chosen_methods
    from metier.task import load_task
    from metier.train import Budget, Run

    settings = options.flag_settings(context.args, method)
    chosen_methods([method], settings)  # a slip is answered before anything is loaded
    wanted = Budget.parse(budget) if budget else None
    if precision is not None:
        check.one_of("--precision", precision, ("float32", "bf16"))
    place = options.free(Path(out), force)
    loaded = load_task(task, allow_leak=allow_leak)
    found = options.load(base, family, dtype, device, chat, truncate)
    spend = wanted or Budget(max(2000, 3 * len(loaded.train)))
    run = Run(seed=seed, budget=spend, precision=precision or "float32", accumulate=accumulate, say=progress.say)
    facts, verdict = _tune(method, loaded, found, settings, run, precision, place)
    for warning in verdict.warnings if verdict else ():
        progress.say(f"warning    {warning}")
    if as_json:
        typer.echo(json.dumps(facts))
        return
    score = "unknown (no dev split)" if facts["dev_score"] is None else f"{facts['dev_score']:.3f}"
    typer.echo(f"saved {out}: {method} on {loaded.name}; {facts['stored_bytes']} bytes; dev score {score}")
    if facts["reload_gap"] is not None:
        typer.echo(f"loaded again, log-probabilities differ by at most {facts['reload_gap']:.2g}")
    if verdict:
        typer.echo(verdict.text())


def _tune(
    method: str, task: Any, base: Any, settings: dict[str, dict[str, Any]], run: Any, precision: str | None, out: Path
) -> tuple[dict[str, Any], Verdict | None]:  # fmt: skip
    """Make the specialist under the run's conditions and save it; a checkpoint beside OUT is what an interrupted run goes on from."""
    from metier import progress
    from metier.errors import Failed, UserError
    from metier.evaluate import metrics
    from metier.evaluate.measuring import measure
    from metier.method import find
    from metier.model import Specialist
    from metier.study import adapt
    from metier.study.door import fitting
    from metier.study.job import Job, inapplicable
    from metier.study.plan import training_seconds
    from metier.study.reloaded import reloaded
    from metier.task.score import SCORERS
    from metier.train.precision import probe

    job = Job(method, task.sealed(), run.seed, run.budget, run.precision, settings)
    if reason := inapplicable(job, base):
        raise UserError(reason)
    task = fitting(base, task)
    job = replace(job, task=task.sealed())
    training, seconds = [p for p in job.parts if find(p).about.trains], None
    if training:
        fastest, each = probe(Specialist(base), job.task)
        run.precision, seconds = precision or fastest, training_seconds(job, each)
        progress.say(
            f"{method} on {task.name}: training in {run.precision}, about {progress.spoken(seconds)}, memory about {_memory(job, base):.1f} GB"
        )
    place = out.absolute().parent / f".{out.absolute().name}.work"
    key = [
        method,
        settings,
        str(run.budget),
        run.seed,
        run.precision,
        run.accumulate,
        task.digest(),
        base.fingerprint,
        base.chat,
        base.truncate,
    ]
    run.workdir = place / hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
    try:
        with progress.bar(f"{method} on {task.name}", max(1, len(training)), expected=seconds) as advance:
            run.tell = _told(advance)
            specialist = adapt(method, task, base, settings=settings, run=run)
        specialist.save(out)
    except Failed:
        shutil.rmtree(place, ignore_errors=True)
        raise
    shutil.rmtree(place, ignore_errors=True)
    gap, verdict = reloaded(specialist, out, job.task, job.parts)
    dev = measure(specialist, task, split="dev", seed=run.seed) if len(task.dev) else []
    facts = {
        "out": str(out), "method": method, "task": task.name, "dev_score": metrics.score(dev, SCORERS[task.metric].total) if dev else None,
        "reload_gap": gap, "verified": verdict.facts() if verdict else None, "stored_bytes": sum(c.stored_bytes() for c in specialist.changes),
    }  # fmt: skip
    return facts, verdict


def _told(advance: Any) -> Any:
    """Progress of training, said at most twenty times a part."""
    shown = 0.0

    def tell(step: int, steps: int, loss: float) -> None:
        nonlocal shown
        now = step / steps
        shown = 0.0 if now < shown else shown  # the next part of a chain begins
        if step == steps or now - shown > 0.05:
            advance(now - shown, f"step {step}/{steps}, loss {loss:.3f}")
            shown = now

    return tell


def _memory(job: Any, base: Any) -> float:
    from metier.study.plan import memory_of

    return float(memory_of(job, base)) / 1e9
