"""`metier tune`: one method on one task, saved as a specialist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from metier.cli import options


def register(app: typer.Typer) -> None:
    """Add the verb."""

    @app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def tune(
        context: typer.Context,
        method: Annotated[str, typer.Argument(help="A method, or a chain 'rag+lora'. `metier methods` lists them.")],
        task: Annotated[str, typer.Argument(help="A task file, folder, world:NAME or hf:NAME.")],
        base: options.BaseName = "metier-tiny",
        out: options.Out = "specialist",
        budget: Annotated[str | None, typer.Option(help="What it may spend: 90s, 5m, 2000ex, 1e6tok.")] = None,
        seed: options.Seed = 0,
        force: Annotated[bool, typer.Option("--force", help="Replace what is in OUT.")] = False,
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
        """
        from metier import atomic, progress
        from metier.errors import UserError
        from metier.evaluate.measuring import measure
        from metier.study import adapt
        from metier.study.trial import reload_gap
        from metier.task import load_task
        from metier.train import Budget, Run

        settings = options.method_settings(options.flags(context.args), [method])
        target = Path(out)
        if target.exists() and not force:
            raise UserError(f"{out}: exists already. Choose another folder with -o, or replace it with --force.")
        atomic.writable(target)
        loaded = load_task(task, allow_leak=allow_leak)
        found = options.load(base, family, dtype, device, chat, truncate)
        spend = Budget.parse(budget) if budget else Budget(max(2000, 3 * len(loaded.train)))
        with progress.bar(f"{method} on {loaded.name}", 1.0) as advance:
            shown = 0.0

            def tell(step: int, steps: int, loss: float) -> None:
                nonlocal shown
                if step == steps or step / steps - shown > 0.05:
                    advance(step / steps - shown, f"step {step}/{steps}, loss {loss:.3f}")
                    shown = step / steps

            run = Run(seed=seed, budget=spend.share(1 / len(method.split("+"))), workdir=target.parent / f".{target.name}.work", tell=tell, say=progress.say)
            specialist = adapt(method, loaded, found, settings=settings, budget=spend, seed=seed, run=run)
        specialist.save(target)
        gap = reload_gap(specialist, target, loaded.sealed())
        dev = measure(specialist, loaded, split="dev") if len(loaded.dev) else []
        score = sum(r.score for r in dev) / len(dev) if dev else None
        facts = {"out": out, "method": method, "task": loaded.name, "dev_score": score, "reload_gap": gap, "stored_bytes": sum(c.stored_bytes() for c in specialist.changes)}
        if as_json:
            typer.echo(json.dumps(facts))
            return
        typer.echo(f"saved {out}: {method} on {loaded.name}; {facts['stored_bytes']} bytes; dev score {'unknown (no dev split)' if score is None else f'{score:.3f}'}")
        if gap is not None:
            typer.echo(f"loaded again, log-probabilities differ by at most {gap:.2g}")
