"""The `wordkiln` command: one file per command. Heavy imports happen inside the commands, so that --help is quick."""

from __future__ import annotations

import io
import sys

import typer

from wordkiln.cli._files import INTERRUPTED
from wordkiln.cli.beam import beam
from wordkiln.cli.chat import chat
from wordkiln.cli.demo import demo
from wordkiln.cli.doctor import doctor
from wordkiln.cli.export import export_app
from wordkiln.cli.generate import generate
from wordkiln.cli.info import info
from wordkiln.cli.score import score
from wordkiln.cli.stream import stream
from wordkiln.cli.tokenizer import tokenizer_app
from wordkiln.cli.train import train
from wordkiln.errors import WordkilnError

app = typer.Typer(
    name="wordkiln",
    help="Train, keep and ship your own small language model, in any language, on the computer you already have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command(rich_help_panel="From text to a model")(train)
app.add_typer(tokenizer_app, name="tokenizer", rich_help_panel="From text to a model")
app.command(rich_help_panel="From a model to text")(generate)
app.command(rich_help_panel="From a model to text")(stream)
app.command(rich_help_panel="From a model to text")(beam)
app.command(rich_help_panel="From a model to text")(chat)
app.command(rich_help_panel="From a model to text")(score)
app.add_typer(export_app, name="export", rich_help_panel="From a model to text")
app.command(rich_help_panel="Look around")(info)
app.command(rich_help_panel="Look around")(doctor)
app.command(rich_help_panel="Look around")(demo)


def main() -> None:
    """Run the command line. A named error becomes one line on stderr and exit code 2; Ctrl-C exit code 130."""
    for output in (sys.stdout, sys.stderr):
        # Text may hold lone surrogates, or what the terminal's encoding does not: it is shown as escapes.
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    try:
        app()
    except WordkilnError as error:
        print(f"wordkiln: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("wordkiln: stopped", file=sys.stderr)
        raise
