"""`wordkiln beam`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from wordkiln.cli._files import INTERRUPTED, STANDARD_INPUT, line_of, read_text
from wordkiln.cli._settings import DType, Model, given

_STOPPING: dict[str | None, Any] = {None: None, "true": True, "false": False, "never": "never"}


def beam(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The text to continue; '-' reads it from standard input.")] = "",
    num_beams: Annotated[int | None, typer.Option(help="Texts that are written side by side. Default 4.")] = None,
    num_return: Annotated[
        int | None, typer.Option("--num-return", "-n", help="How many of them to print. Default 1.")
    ] = None,
    length_penalty: Annotated[float | None, typer.Option(help="More favours longer texts. Default 1.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens of a text. Default 128.")] = None,
    min_new_tokens: Annotated[
        int | None, typer.Option(help="A text does not end before so many tokens. Default 0.")
    ] = None,
    early_stopping: Annotated[
        str | None, typer.Option(help="When to stop: true, false or never (docs/beam.md). Default false.")
    ] = None,
    num_beam_groups: Annotated[int | None, typer.Option(help="Groups of beams that are kept apart. Default 1.")] = None,
    diversity_penalty: Annotated[
        float | None, typer.Option(help="What a token costs that another group took. Default 0.")
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option(help="No run of so many tokens comes twice; 0: any may. Default 0.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="What every text begins with.")] = None,
    bad_words: Annotated[list[str] | None, typer.Option(help="A text that is never written; repeat for more.")] = None,
    truncate: Annotated[
        str | None, typer.Option(help="'left' drops the beginning of a prompt that is too long.")
    ] = None,
    dtype: DType = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object for each text, a line each.")] = False,
) -> None:
    """Search the most probable continuations of a prompt, and print them with their scores, the best first.

    Example: [bold]wordkiln beam runs/novels --prompt "Once upon a time" --num-beams 8 -n 3[/bold]
    """
    from wordkiln.errors import ArgumentError, Interrupted
    from wordkiln.generation import load

    if early_stopping not in _STOPPING:
        raise ArgumentError(f"early_stopping={early_stopping!r}: must be true, false or never")
    text = read_text(STANDARD_INPUT) if prompt == STANDARD_INPUT else prompt
    settings: dict[str, Any] = {
        "num_beams": num_beams,
        "num_return": num_return,
        "length_penalty": length_penalty,
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "early_stopping": _STOPPING[early_stopping],
        "num_beam_groups": num_beam_groups,
        "diversity_penalty": diversity_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "prefix": prefix,
        "bad_words": bad_words,
        "truncate": truncate,
    }
    searcher = load(model, dtype)
    stopped = False
    try:
        found = searcher.beam(text, **given(settings))
    except Interrupted as stop:
        found, stopped = stop.completions, True
    for place, completion in enumerate(found, 1):
        if as_json:
            print(line_of({"prompt": text} | dataclasses.asdict(completion)))
        else:
            print(f"--- {place} of {len(found)}, score {completion.score:.4f}")
            print(text + completion.text)
    if stopped:
        raise typer.Exit(INTERRUPTED)
