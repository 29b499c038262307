"""`metier evaluate`: a specialist or base on a task; `metier generate`: what it writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from metier.cli import options

Model = Annotated[str, typer.Argument(help="A saved specialist, or a base by name or folder.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""

    @app.command()
    def evaluate(
        model: Model,
        task: Annotated[str, typer.Argument(help="A task file, folder, world:NAME or hf:NAME.")],
        split: Annotated[str, typer.Option(help="test, dev, ood or train.")] = "test",
        limit: Annotated[int | None, typer.Option(help="Only the first so many examples.", min=1)] = None,
        seed: options.Seed = 0,
        out: Annotated[str | None, typer.Option("--out", "-o", help="Write the records here (Parquet).")] = None,
        allow_leak: options.AllowLeak = False,
        truncate: options.Truncate = False,
        as_json: options.AsJson = False,
    ) -> None:
        """Score MODEL on TASK: score with interval, calibration, tokens and time."""
        from metier.evaluate import metrics, stats, write_records
        from metier.evaluate.measuring import measure
        from metier.task import load_task

        loaded = load_task(task, allow_leak=allow_leak)
        specialist = open_model(model, truncate)
        records = measure(specialist, loaded, split=split, limit=limit, seed=seed)
        if out:
            write_records(Path(out), records)
        summary: dict[str, Any] = {"model": model, "task": loaded.name, "split": split, **metrics.summary(records)}
        interval = stats.score_interval(records)
        summary["interval"] = [interval.low, interval.high]
        if as_json:
            typer.echo(json.dumps(summary))
            return
        typer.echo(f"{loaded.name} ({split}, {len(records)} examples): {loaded.metric} {interval.value:.3f}, 95 % interval {interval.low:.3f} to {interval.high:.3f}")
        for name, value in summary.items():
            if isinstance(value, float) and name not in ("score",):
                typer.echo(f"  {name:16s} {value:.4g}")

    @app.command()
    def generate(
        model: Model,
        prompt: Annotated[str | None, typer.Argument(help="The prompt; without it, every line of standard input is one.")] = None,
        max_new_tokens: Annotated[int, typer.Option(help="At most so many tokens.", min=1)] = 64,
        temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.0,
        stop: Annotated[list[str] | None, typer.Option(help="End at this text; may be repeated.")] = None,
        task: Annotated[str | None, typer.Option(help="Show the prompt as this task's query (exemplars and passages are then added).")] = None,
        seed: options.Seed = 0,
        truncate: options.Truncate = False,
        as_json: options.AsJson = False,
    ) -> None:
        """Write on from PROMPT with a specialist or base."""
        from metier.errors import UserError
        from metier.task import Example, Prompt, load_task

        texts = [prompt] if prompt is not None else [line.rstrip("\n") for line in sys.stdin]
        if not any(t.strip() for t in texts):
            raise UserError("generate: the prompt is empty. Give a text, or lines on standard input.")
        specialist = open_model(model, truncate)
        prompts = [Prompt(t, separator="") for t in texts]
        if task:
            loaded = load_task(task, allow_leak=True)
            prompts = [specialist.prompt(loaded, Example(f"line-{i}", _fields(loaded, t), "")) for i, t in enumerate(texts)]
        answers = specialist.generate(
            prompts, max_new_tokens=max_new_tokens, stop=stop or [], temperature=temperature, seeds=[f"{seed}|{i}" for i in range(len(prompts))]
        )
        for text, answer in zip(texts, answers, strict=True):
            typer.echo(json.dumps({"prompt": text, "output": answer.text, "tokens": answer.tokens}) if as_json else answer.text)


def open_model(name: str, truncate: bool = False) -> Any:
    """A saved specialist, or a plain base."""
    from metier.model import Specialist, load_base

    if (Path(name) / "specialist.json").exists():
        specialist = Specialist.load(name)
        specialist.base.truncate = truncate
        return specialist
    return Specialist(load_base(name, truncate=truncate))


def _fields(task: Any, text: str) -> dict[str, Any]:
    """The text as the task's one field of input."""
    from metier.errors import UserError

    named = [n for n in (task.train or task.dev)[0].fields if "{{ " + n in task.template or "{{" + n in task.template]
    if len(named) != 1:
        raise UserError(f"generate: task {task.name} reads {len(named)} fields ({', '.join(named)}), so a line of text does not fill it.")
    return {named[0]: text}
