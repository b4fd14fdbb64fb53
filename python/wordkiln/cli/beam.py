"""`wordkiln beam`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from wordkiln.cli._files import INTERRUPTED, STANDARD_INPUT, line_of, read_text
from wordkiln.cli._settings import DType, Model


def beam(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The text to continue; '-' reads it from standard input.")] = "",
    num_beams: Annotated[int, typer.Option(help="Texts that are written side by side.")] = 4,
    num_return: Annotated[int, typer.Option("--num-return", "-n", help="How many of them to print.")] = 1,
    length_penalty: Annotated[float, typer.Option(help="More favours longer texts.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of a text.")] = 128,
    min_new_tokens: Annotated[int, typer.Option(help="A text does not end before so many tokens.")] = 0,
    early_stopping: Annotated[str, typer.Option(help="When to stop: true, false or never (docs/beam.md).")] = "false",
    num_beam_groups: Annotated[int, typer.Option(help="Groups of beams that are kept apart.")] = 1,
    diversity_penalty: Annotated[float, typer.Option(help="What a token costs that another group took.")] = 0.0,
    no_repeat_ngram_size: Annotated[int, typer.Option(help="No run of so many tokens comes twice; 0: any may.")] = 0,
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

    stopping: dict[str, Any] = {"true": True, "false": False, "never": "never"}
    if early_stopping not in stopping:
        raise ArgumentError(f"early_stopping={early_stopping!r}: must be true, false or never")
    text = read_text(STANDARD_INPUT) if prompt == STANDARD_INPUT else prompt
    given: dict[str, Any] = {"prefix": prefix, "bad_words": bad_words, "truncate": truncate}
    searcher = load(model, dtype)
    stopped = False
    try:
        found = searcher.beam(
            text,
            num_beams=num_beams,
            num_return=num_return,
            length_penalty=length_penalty,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens,
            early_stopping=stopping[early_stopping],
            num_beam_groups=num_beam_groups,
            diversity_penalty=diversity_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            **{name: value for name, value in given.items() if value},
        )
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
