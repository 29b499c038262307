"""`metier`: the verbs, how errors reach a person, and exit codes (0 done, 1 failed, 2 misuse, 130 stopped).

A verb is a file in this folder with a function `register(app)`. The app itself imports nothing heavy, so that `--help`
answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import typer

from metier import __version__, progress
from metier.errors import Failed, UserError, out_of_memory

HELP = "Give a pretrained model a trade: specialise it in every way, measure each way alike, keep the best."


def make_app(verb: str | None = None) -> typer.Typer:
    """The application with every verb of this folder, or with this one alone, where there is a file of its name (0.1 s sooner)."""
    app = typer.Typer(
        name="metier", help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )  # fmt: skip
    verbs = sorted({file.stem for file in Path(__file__).parent.glob("[!_]*.py")} - {"main", "options"})
    for name in [verb] if verb in verbs else verbs:
        importlib.import_module(f"metier.cli.{name}").register(app)

    @app.callback(invoke_without_command=True)
    def _top(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
        if version:
            typer.echo(f"metier {__version__}")
            raise typer.Exit

    return app


STOPPED = "stopped. Nothing half-written is left; run the same command again to go on."


def main() -> None:
    """Run the command line."""
    progress.for_terminal()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where 'module:function' of a method of one's own is looked for, after everything installed
    try:
        code = make_app(next(iter(sys.argv[1:]), None))(
            prog_name="metier", standalone_mode=False
        )  # click turns some exceptions into a returned exit code
    except UserError as error:
        _end(f"error: {error}", 2)
    except Failed as error:
        _end(f"failed: {error}", 1)
    except KeyboardInterrupt:
        _end(STOPPED, 130)
    except BrokenPipeError:  # whoever read our output has gone (`metier methods | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from None
    except Exception as error:
        kind = type(error).__name__
        if kind == "NoArgsIsHelpError":
            _end(str(error), 2)
        if kind == "Abort":
            _end(STOPPED, 130)
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # click's own, which typer brings along under its name
            verb = getattr(getattr(error, "ctx", None), "command_path", "metier")
            text = error.format_message()
            _end(f"error: {text}{'' if text.endswith(('.', '?')) else '.'} See `{verb} --help`.", 2)
        if out_of_memory(error):
            _end("failed: out of memory. Close other programs, or take a smaller base, shorter prompts or a smaller batch_size.", 1)
        raise
    if code == 130:
        _end(STOPPED, 130)
    raise SystemExit(code if isinstance(code, int) else 0)


def _end(text: str, code: int) -> None:
    sys.stderr.write(text + "\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
