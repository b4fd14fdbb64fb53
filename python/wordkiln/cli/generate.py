"""`wordkiln generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordkiln.cli._files import INTERRUPTED, STANDARD_INPUT, check_output, line_of, read_records, read_text
from wordkiln.cli._settings import DType, Model, takes_settings

if TYPE_CHECKING:
    from wordkiln.generation import Completion, LanguageModel


@takes_settings
def generate(
    model: Model,
    prompt: Annotated[
        str | None, typer.Option(help="The text to continue; '-' reads it from standard input. Default: none.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="How many texts to write of each prompt.", min=1)] = 1,
    input: Annotated[
        str | None,
        typer.Option(
            help="Many prompts: a line each, a JSON string or an object with a \"prompt\"; '-': standard input."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the results of --input here, whole or not at all.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Most texts to write at the same time.", min=1)] = 16,
    dtype: DType = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object for each text, a line each.")] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Continue a prompt, or a file of them. Ctrl-C stops and keeps what is written.

    [bold]Examples[/bold]

    wordkiln generate runs/novels --prompt "Once upon a time" --temperature 0.8 --top-p 0.95

    wordkiln generate runs/novels --input prompts.jsonl --output texts.jsonl --seed 1
    """
    from wordkiln.errors import ArgumentError
    from wordkiln.generation import load

    if input is not None and prompt is not None:
        raise ArgumentError("--prompt and --input: give one of them")
    if output is not None and input is None:
        raise ArgumentError("--output: is for the results of --input; a single text goes to standard output")
    if input is not None:
        check_output(output)
        _write_many(
            load(model, dtype), read_records(input, "prompt"), output, n=n, max_batch_size=batch_size, **settings
        )
        return
    language_model = load(model, dtype)
    text = read_text(STANDARD_INPUT) if prompt == STANDARD_INPUT else prompt or ""
    if as_json:
        _write_json(language_model, text, n, settings)
    else:
        _write_text(language_model, text, n, settings)


def _write_text(model: LanguageModel, prompt: str, n: int, settings: dict[str, Any]) -> None:
    """Each sample as it is written."""
    import secrets

    from wordkiln.generation import derive_seed

    seed = settings.pop("seed", None)
    seed = secrets.randbits(64) if seed is None else seed
    for sample in range(n):
        pieces = model.stream(prompt, seed=derive_seed(seed, sample), **settings)
        if n > 1:
            print(f"--- {sample + 1} of {n}")
        print(prompt, end="", flush=True)
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
            stopped = pieces.finish_reason == "interrupted"
        except KeyboardInterrupt:  # it came while the terminal was being written to
            stopped = True
        print()
        if stopped:
            raise typer.Exit(INTERRUPTED)


def _write_json(model: LanguageModel, prompt: str, n: int, settings: dict[str, Any]) -> None:
    from wordkiln.errors import Interrupted

    try:
        completions = model.generate([prompt], n=n, **settings)
    except Interrupted as stop:
        completions = stop.completions
    for completion in completions:
        print(line_of({"prompt": prompt} | record_of(completion)))
    _end(completions, n)


def _write_many(
    model: LanguageModel, records: list[dict[str, Any]], output: Path | None, *, n: int, **settings: Any
) -> None:
    """A line for each completion: to standard output as it comes, or to a file when all are there."""
    from wordkiln._files import write_file
    from wordkiln.errors import Interrupted

    prompts = [record["prompt"] for record in records]
    lines: list[str] = []
    written: list[Completion] = []

    def take(completion: Completion) -> None:
        record = records[len(written) // n]
        written.append(completion)
        line = line_of(record | record_of(completion))
        if output is None:
            print(line, flush=True)
        else:
            lines.append(line + "\n")

    try:
        for completion in model.iter_batch(prompts, n=n, progress=True, **settings):
            take(completion)
    except Interrupted as stop:
        for completion in stop.completions:
            take(completion)
    if output is not None:
        write_file(output, "".join(lines))
        print(f"{len(written)} of {len(records) * n} texts written to {output}", file=sys.stderr)
    _end(written, len(records) * n)


def record_of(completion: Completion) -> dict[str, Any]:
    """A completion as JSON has it: without what was not asked for."""
    import dataclasses

    return {name: value for name, value in dataclasses.asdict(completion).items() if value is not None}


def _end(completions: list[Completion], expected: int) -> None:
    """Exit code 130 after Ctrl-C, 1 where a text failed."""
    failed = [completion for completion in completions if completion.finish_reason == "error"]
    if failed:
        print(
            f"wordkiln: {len(failed)} of {expected} texts could not be written: {failed[0].error}"
            + (' (and others: see "error" in their lines)' if len(failed) > 1 else ""),
            file=sys.stderr,
        )
    if len(completions) < expected or any(completion.finish_reason == "interrupted" for completion in completions):
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(1)
