"""`metier merge METHOD MODEL... --base B -o OUT`: one model from several; `metier merge from-mergekit RECIPE.yml -o OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from metier.cli import options
from metier.cli._done import out_of, planned, say_done, say_plan
from metier.errors import UserError, nearest
from metier.method import Method, catalogue, find, named

if TYPE_CHECKING:
    from metier.delta import Checkpoint, Delta, Merge
    from metier.merge._work import Done, How

RECIPES = "from-mergekit"
FLAGS = ("base", "coef", "lines", "out", "delta", "force", "verify", "no-verify", "workers", "ray", "device", "dry-run", "json")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(context_settings={"ignore_unknown_options": True})(merge)


def merge(
    method: Annotated[str, typer.Argument(help="A merge (`metier methods merge` lists them), or 'from-mergekit'.")],
    words: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="Deltas, specialists, PEFT adapters or checkpoints; then the merge's settings."),
    ],
    base: Annotated[str | None, typer.Option("--base", "-b", help="The base all of them were made from.")] = None,
    coef: Annotated[str | None, typer.Option("--coef", help="A factor for each model, comma-separated; 1 unless given.")] = None,
    lines: Annotated[float | None, typer.Option("--lines", help="LiNeS afterwards: factor of the first layer, 1 in the last.")] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="Where the result is written.")] = "merged",
    delta: Annotated[bool, typer.Option("--delta", help="Write the merged change instead of a checkpoint.")] = False,
    force: options.Force = False,
    verify: options.Verify = True,
    workers: Annotated[int, typer.Option("--workers", help="Threads; with --ray each shard has one.", min=1)] = 2,
    ray: options.Ray = None,
    device: Annotated[str, typer.Option("--device", help="Where slices are merged: cpu, cuda.")] = "cpu",
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Merge MODELs that were made from one base into one, by METHOD, in memory that does not grow with the models.

    The method's settings are flags too: `metier merge ties A B --base B0 --density 0.2`. `metier methods show ties` lists them.
    `metier merge from-mergekit RECIPE.yml` runs a recipe of mergekit's. The result is loaded again and compared with the
    composition it should be; a model that changes nothing is an error.
    """
    from metier.merge._work import How

    how = How(force, verify, workers, ray, device)
    models, flags = _split(words)
    if method == RECIPES:
        _recipe(
            models,
            flags,
            {"--base": base, "--coef": coef, "--lines": lines, "--delta": delta or None},
            Path(out),
            how,
            dry_run,
            as_json,
        )
        return
    asked = _asked(method, models, flags, base, coef, lines)
    _merge(asked, Path(out), how, delta, dry_run, as_json)


class Asked(NamedTuple):
    """What is to be merged and how, checked as far as it can be without reading a file."""

    method: Method
    settings: Any
    merge: Merge
    base: str

    def recipe(self) -> dict[str, Any]:
        """What the output is known by."""
        names = [s.name for s in self.method.settings]
        return {"merge": self.method.name, "base": self.base, "settings": {n: getattr(self.settings, n) for n in names}}


def _split(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """(models, {setting: text}) of what is left on the command line: '--density 0.2' or '--density=0.2' among the models."""
    models, flags, rest = [], {}, list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            models.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"flag --{name} needs a value, for instance --{name} 0.5 (or true, false).")
            value = rest.pop(0)
        flags[name.replace("-", "_")] = value
    return models, flags


def _asked(method: str, models: list[str], flags: dict[str, str], base: str | None, coef: str | None, lines: float | None) -> Asked:
    name = method.replace("_", "-")
    found = find(method) if ":" in method else named(name)
    if found is None or (":" not in method and not found.merge):
        merges = [m.name for m in catalogue().values() if m.merge]
        learns = " needs a task to learn from: run it with metier tune. (One change alone is compressed by metier delta compress.)"
        why = learns if found is not None and found.room == "merge" else f" is no merge.{nearest(name, [*merges, RECIPES])}"
        raise UserError(f"merge: {method!r}{why}")
    own = [s.name for s in found.settings if s.name not in ("experts", "coef", "lines")]
    if unknown := [f for f in flags if f not in own]:
        known = [n.replace("_", "-") for n in own]
        raise UserError(f"merge {name}: unknown flag --{unknown[0].replace('_', '-')}.{nearest(unknown[0], [*known, *FLAGS])}")
    if base is None:
        raise UserError("merge: which base were the models made from? Say --base.")
    given: dict[str, Any] = {**flags, "experts": models}
    given |= ({"coef": coef} if coef else {}) | ({"lines": lines} if lines is not None else {})
    from metier.merge._work import function_of

    settings = found.configure(given)
    return Asked(found, settings, function_of(found)(**{n: getattr(settings, n) for n in own}), base)


def _merge(asked: Asked, out: Path, how: How, as_delta: bool, dry_run: bool, as_json: bool) -> None:
    from metier.merge import _work
    from metier.merge._heads import bodies_of
    from metier.merge._kin import same_vocabulary
    from metier.merge._numbers import naming

    base, places = _work.open_base(asked.base), list(asked.settings.experts)
    if planned(base, places, out, dry_run, as_json):
        return
    out = out_of(out, how.force, base.path, *places)
    experts = bodies_of([_work.opened(p, base) for p in places], base, places)
    same_vocabulary(base.path, *places)
    _work.check_experts(base, experts, places)
    with naming(*experts):
        say_done(_made(asked, base, experts, out, how, as_delta), as_json)


def _made(asked: Asked, base: Checkpoint, experts: list[Delta], out: Path, how: How, as_delta: bool) -> Done:
    from metier.delta.parts import by_depth
    from metier.delta.record import record
    from metier.delta.transform import chain
    from metier.merge import _work
    from metier.merge._experts import weights_of
    from metier.merge._method import change_of

    merge, coefs, lines = asked.merge, asked.settings.coef, asked.settings.lines
    changed = change_of(merge, experts, base, coefs=coefs, lines=lines)
    if as_delta:
        made = {"method": asked.method.name, "settings": asked.recipe()["settings"], "papers": list(asked.method.about.papers)}
        changed = changed.made(record("merge", *(e.record for e in experts), **made))
        return _work.keep(changed, out, base, how.here("a change (--delta)"), recipe=asked.recipe())
    if merge.weights == "full" and lines is not None:
        return _work.fold(base, changed, out, how.on_cpu("--lines after a merge of weights"), recipe=asked.recipe())
    if merge.weights == "full":
        experts = [weights_of(e, base) for e in experts]
    merge = merge if lines is None else merge._replace(then=chain(merge.then, by_depth(lines, 1.0)))
    return _work.merge_to(merge, base, experts, changed, out, how, coefs=coefs, recipe=asked.recipe())


def _recipe(
    models: list[str], flags: dict[str, str], unwanted: dict[str, Any], out: Path, how: How, dry_run: bool, as_json: bool
) -> None:  # fmt: skip
    from metier.merge.mergekit import prepare

    extra = [f"--{f.replace('_', '-')}" for f in flags] + [f for f, v in unwanted.items() if v is not None]
    if len(models) != 1 or extra:
        what = f"got {', '.join(extra)} too" if extra else f"got {len(models)} of them"
        raise UserError(f"merge from-mergekit: give one recipe file, which says all else; {what}.")
    job = prepare(Path(models[0]))
    if dry_run:
        plan = job.plan(out.expanduser())
        say_plan(plan, as_json)
        return
    out = out_of(out, how.force, models[0], *(place for name in job.models for place in (name, *name.split("+"))))
    say_done(job.run(out, how.on_cpu("a recipe of mergekit's")), as_json)
