"""`wordkiln stream`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wordkiln.cli._files import INTERRUPTED, STANDARD_INPUT, line_of, read_text
from wordkiln.cli._settings import DType, Model, takes_settings


@takes_settings
def stream(
    model: Model,
    prompt: Annotated[
        str, typer.Option(help="The text to continue; '-' reads it from standard input. Default: none.")
    ] = "",
    dtype: DType = "float32",
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object for each piece, a line each; the last has the finish_reason.")
    ] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Write the continuation of a prompt, without the prompt, piece by piece: for a pipe. Ctrl-C ends it.

    Example: [bold]wordkiln stream runs/novels --prompt "Once upon a time" --seed 1 | tee story.txt[/bold]
    """
    from wordkiln.generation import load

    pieces = load(model, dtype).stream(read_text(STANDARD_INPUT) if prompt == STANDARD_INPUT else prompt, **settings)
    for piece in pieces:
        print(line_of({"text": piece}) if as_json else piece, end="\n" if as_json else "", flush=True)
    print(line_of({"finish_reason": pieces.finish_reason}) if as_json else "")
    if pieces.finish_reason == "interrupted":
        raise typer.Exit(INTERRUPTED)
