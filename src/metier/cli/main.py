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

from metier import __version__
from metier.errors import UserError

HELP = "Give a pretrained model a trade: specialise it in every way, measure each way alike, keep the best."


def make_app() -> typer.Typer:
    """The application with every verb of this folder."""
    app = typer.Typer(
        name="metier", help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.stem not in ("__init__", "main", "options"):
            importlib.import_module(f"metier.cli.{file.stem}").register(app)

    @app.callback(invoke_without_command=True)
    def _top(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
        if version:
            typer.echo(f"metier {__version__}")
            raise typer.Exit

    return app


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        make_app()(standalone_mode=False)
    except UserError as error:
        _end(f"error: {error}", 2)
    except KeyboardInterrupt:
        _end("stopped. Nothing half-written is left; run the same command again to go on.", 130)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from None
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            _end(f"error: {error.format_message()} See `metier --help`.", 2)
        if type(error).__name__ == "Abort":
            _end("stopped. Nothing half-written is left; run the same command again to go on.", 130)
        raise


def _end(text: str, code: int) -> None:
    sys.stderr.write(text + "\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
