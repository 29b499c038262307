"""`metier delta VERB`: changes of weights: take them, look at them, put them in and out, convert, compress, add and compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metier.cli import options
from metier.cli._delta_tasks import in_sequence, overlapping
from metier.cli._done import how_of, out_of, planned, say_done
from metier.errors import UserError

if TYPE_CHECKING:
    from metier.merge._work import How

HELP = "Changes of weights: diff, fold, unfold, show, convert, compress, add, compare."
Change = Annotated[str, typer.Argument(help="A change: a saved delta, a PEFT adapter, a specialist, or a full checkpoint.")]
Base = Annotated[str, typer.Argument(help="The base: a folder in Hugging Face form, a safetensors file, or an embedded base.")]
LARGEST = (
    "Spectra of matrices whose smaller side is longer are estimated, within about 3 % and in 1 to 3 seconds for 4096 x 4096; exact ones take "
    "minutes there. Those of low-rank changes are always exact."
)
Out = Annotated[str, typer.Option("--out", "-o", help="Where the result is written.")]
Rank = Annotated[int | None, typer.Option("--rank", help="Rank of every matrix's change.", min=1)]
Energy = Annotated[
    float | None, typer.Option("--energy", help="Instead of a rank: the lowest that keeps this fraction of the squared norm.")
]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    verbs = typer.Typer(no_args_is_help=True, help=HELP, rich_markup_mode=None)
    for add in (_taking, _folding, _showing, overlapping, _converting, _compressing, _adding, in_sequence):
        add(verbs)
    app.add_typer(verbs, name="delta")


def _taking(verbs: typer.Typer) -> None:
    @verbs.command()
    def diff(
        base: Base,
        tuned: Annotated[str, typer.Argument(help="The tuned model: a full checkpoint, a PEFT adapter or a specialist.")],
        out: Out = "delta",
        force: options.Force = False,
        verify: options.Verify = True,
        as_json: options.AsJson = False,
    ) -> None:
        """Store how TUNED differs from BASE. Tensors that do not differ are left out; two equal models are an error."""
        from metier.delta.record import record
        from metier.merge import _work

        place, found = out_of(out, force, base, tuned), _work.open_base(base)
        change = _work.opened(tuned, found)
        say_done(_work.keep(change.made(record("diff", change.record)), place, found, how_of(force, verify)), as_json)


def _folding(verbs: typer.Typer) -> None:
    def fold(
        base: Base, delta: Change, out: Out = "folded", force: options.Force = False, verify: options.Verify = True, ray: options.Ray = None,
        dry_run: options.DryRun = False, as_json: options.AsJson = False,
    ) -> None:  # fmt: skip
        """Write BASE + DELTA as a checkpoint that any tool loads: weights, configuration and tokenizer. A task's head is left out."""
        from metier.merge import _work
        from metier.merge._heads import body_of

        found = _work.open_base(base)
        if not planned(found, [delta], out, dry_run, as_json):
            place, body = out_of(out, force, base, delta), body_of(_work.opened(delta, found), found, delta)
            recipe = {"fold": delta} | body.facts()
            say_done(_work.fold(found, body.delta, place, how_of(force, verify, ray), recipe=recipe), as_json, **body.facts())

    verbs.command("fold")(fold)
    verbs.command("apply", help="The same as fold.")(fold)
    verbs.command("to-hf", help="The same as fold: a checkpoint in Hugging Face form.")(fold)

    @verbs.command()
    def unfold(
        checkpoint: Annotated[str, typer.Argument(help="A checkpoint that the change was folded into.")],
        delta: Change,
        out: Out = "unfolded",
        base: options.OfBase = None,
        force: options.Force = False,
        verify: options.Verify = True,
        as_json: options.AsJson = False,
    ) -> None:
        """Take DELTA out of CHECKPOINT again and write what is left; says whether that is the base, bit for bit."""
        from metier.merge import _work
        from metier.merge._heads import body_of

        place, (change, _) = out_of(out, force, checkpoint, delta, base), _work.open_change(delta, base)
        found = _work.open_base(checkpoint)
        if change.base and found.fingerprint() == change.base:
            raise UserError(
                f"unfold: {checkpoint} is the base of {delta} itself: nothing was folded into it. Give the checkpoint that metier delta "
                "fold wrote; base - change is written by metier delta scale DELTA -1 and fold."
            )
        body = body_of(change, found, delta)
        taken, recipe = _work.negated(found, body.delta), {"unfold": delta} | body.facts()
        done = _work.fold(found, taken, place, how_of(force, verify), recipe=recipe).of("the checkpoint")
        same = _work.open_base(place).fingerprint() == change.base if change.base else None
        words = {
            None: "", True: "It is the base, bit for bit.",
            False: f"It is not the base bit for bit: folding had rounded, or {checkpoint} is not base + {delta}.",
        }[same]  # fmt: skip
        say_done(done, as_json, words, is_the_base=same, **body.facts())


def _showing(verbs: typer.Typer) -> None:
    @verbs.command()
    def show(
        delta: Change,
        base: options.OfBase = None,
        figure: Annotated[str | None, typer.Option("--figure", help="Write a figure here: an HTML page of its own.")] = None,
        largest: Annotated[int, typer.Option("--largest", help=LARGEST, min=0)] = 1024,
        spectra: Annotated[bool, typer.Option("--spectra/--no-spectra", help="Singular values and ranks, the slow part.")] = True,
        as_json: options.AsJson = False,
    ) -> None:
        """Where DELTA comes from, and per tensor and layer: kind, norm, share of zeros, effective rank."""
        from metier import atomic
        from metier.claims import papers
        from metier.merge import _show, _work
        from metier.merge._numbers import naming

        change = _work.change_alone(delta, base)
        if base is not None:
            change = replace(change, provenance={**change.provenance, "base": str(_work.open_base(base).path.resolve())})
        with naming(change):
            facts = _show.shown(change, largest=largest if spectra else None)
        if figure:
            page = Path(figure).expanduser()
            page.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(page, _show.figure(facts))
        typer.echo(json.dumps(facts) if as_json else _show.table(facts, lambda n: papers.find(n).title))


def _converting(verbs: typer.Typer) -> None:
    @verbs.command("to-lora")
    def to_lora(
        delta: Change, rank: Rank = None, energy: Energy = None, out: Out = "lora", base: options.OfBase = None, force: options.Force = False,
        verify: options.Verify = True, as_json: options.AsJson = False,
    ) -> None:  # fmt: skip
        """Every matrix's change as two factors: of a rank, or of the lowest rank that keeps a share of its energy."""
        from metier.merge._convert import to_lora as convert

        if (rank is None) == (energy is None):
            raise UserError("to-lora: give either --rank 16 or --energy 0.9.")
        _compressed(delta, base, out_of(out, force, delta, base), how_of(force, verify), as_json, lambda d: convert(d, rank, energy=energy))

    @verbs.command("to-peft")
    def to_peft(
        delta: Change, out: Out = "adapter", base: options.OfBase = None, force: options.Force = False, verify: options.Verify = True,
        as_json: options.AsJson = False,
    ) -> None:  # fmt: skip
        """Write a low-rank DELTA as a LoRA adapter that peft loads. A task's head is left out."""
        from metier.merge import _work
        from metier.merge._export import export
        from metier.merge._heads import body_of

        place, (change, found) = out_of(out, force, delta, base), _work.open_change(delta, base)
        if found is None:
            raise UserError(f"{delta}: its base is not where it was, and peft's format depends on it. Say --base.")
        body = body_of(change, found, delta)
        say_done(export(body.delta, found, place, how_of(force, verify)), as_json, **body.facts())


def _compressing(verbs: typer.Typer) -> None:
    @verbs.command()
    def compress(
        delta: Change,
        method: Annotated[str, typer.Option("--method", "-m", help="compeft, bitdelta or svd.")] = "compeft",
        density: Annotated[float | None, typer.Option("--density", help="compeft: the fraction of entries kept; default: 0.05.")] = None,
        alpha: Annotated[float | None, typer.Option("--alpha", help="compeft: scale in standard deviations; default: nearest.")] = None,
        everything: Annotated[bool, typer.Option("--everything", help="bitdelta: embeddings and output layer too.")] = False,
        rank: Rank = None,
        energy: Energy = None,
        out: Out = "compressed",
        base: options.OfBase = None,
        force: options.Force = False,
        verify: options.Verify = True,
        as_json: options.AsJson = False,
    ) -> None:
        """Store DELTA in fewer bytes; says how many, how much of the change is kept, and what the model then says."""
        from metier import check
        from metier.merge import bitdelta, compeft, svd

        ways = {
            "compeft": lambda d: compeft.compressed(d, density=0.05 if density is None else density, alpha=alpha),
            "bitdelta": lambda d: bitdelta.compressed(d, everything=everything),
            "svd": lambda d: svd.compressed(d, rank, energy=0.9 if rank is None and energy is None else energy),
        }
        check.one_of("--method", method, ways)
        _of_method(method, {"density": density, "alpha": alpha, "everything": everything or None, "rank": rank, "energy": energy})
        _compressed(delta, base, out_of(out, force, delta, base), how_of(force, verify), as_json, ways[method])


OF_METHOD = {"density": "compeft", "alpha": "compeft", "everything": "bitdelta", "rank": "svd", "energy": "svd"}


def _of_method(method: str, given: dict[str, Any]) -> None:
    """Raises UserError for an option (None: not given) of another method, which would be ignored."""
    for name, value in given.items():
        if value is not None and OF_METHOD[name] != method:
            raise UserError(
                f"compress: --{name} is an option of {OF_METHOD[name]}, not of {method}: leave it out, or say --method {OF_METHOD[name]}."
            )
    if given["rank"] is not None and given["energy"] is not None:
        raise UserError("compress: give either --rank 16 or --energy 0.9.")


def _adding(verbs: typer.Typer) -> None:
    @verbs.command("sum")
    def add(
        deltas: Annotated[list[str], typer.Argument(help="Changes of one base.")],
        coef: Annotated[str | None, typer.Option("--coef", help="A factor for each, comma-separated; 1 unless given.")] = None,
        out: Out = "sum",
        base: options.OfBase = None,
        force: options.Force = False,
        verify: options.Verify = True,
        as_json: options.AsJson = False,
    ) -> None:
        """Add changes up, each times its factor; low-rank changes stay low-rank."""
        from metier.delta.combine import weights
        from metier.merge import _work
        from metier.method import convert

        try:
            coefs = weights(convert(coef, tuple[float, ...]) if coef else None, len(deltas))
        except ValueError as error:
            raise UserError(f"--coef: {error}") from error
        place, (found, on) = out_of(out, force, *deltas, base), _work.open_changes(deltas, base)
        parts = [c * d for c, d in zip(coefs, found, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        say_done(_work.keep(total, place, on, how_of(force, verify)), as_json)

    @verbs.command(context_settings={"ignore_unknown_options": True})  # so that -1 is a number
    def scale(
        delta: Change,
        factor: Annotated[float, typer.Argument(help="The factor; negative takes a skill away.")],
        out: Out = "scaled",
        base: options.OfBase = None,
        force: options.Force = False,
        verify: options.Verify = True,
        as_json: options.AsJson = False,
    ) -> None:
        """Multiply a change."""
        from metier import check
        from metier.merge import _work

        check.number("scale: factor", factor)
        place, how = out_of(out, force, delta, base), how_of(force, verify)
        found, on = _work.change_and_base(delta, base, how)
        say_done(_work.keep(factor * found, place, on, how), as_json)


def _compressed(delta: str, base: str | None, out: Path, how: How, as_json: bool, compress: Any) -> None:
    from metier.merge import _work
    from metier.merge._loss import loss
    from metier.merge._numbers import naming

    change, found = _work.change_and_base(delta, base, how)
    with naming(change):
        made = compress(change)
        facts = loss(change, made, found if how.verify else None)
        done = _work.keep(made, out, found, how, **facts)
    before = _work.size_of(Path(delta).expanduser())
    words = f"size       {done.bytes / 1e6:.4g} MB, {before / max(done.bytes, 1):.3g} times smaller than {delta}; {facts['kept']:.1%} of the squared norm kept"
    if facts.get("perplexity_full") is not None:
        words += f"; perplexity with the full change {facts['perplexity_full']:.4g}"
    say_done(done, as_json, words, bytes_before=before)
