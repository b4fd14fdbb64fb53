"""`wordkiln score`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordkiln.cli._files import line_of, read_records, read_text
from wordkiln.cli._settings import DType, Model

if TYPE_CHECKING:
    from wordkiln.generation import TextScore

_SHOWN = 40


def score(
    model: Model,
    texts: Annotated[list[str] | None, typer.Argument(help="The texts.")] = None,
    file: Annotated[
        list[str] | None, typer.Option("--file", "-f", help="A file that is one text; '-': standard input; repeat.")
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(help="Many texts: a line each, a JSON string or an object with a \"text\"; '-': standard input."),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="What stands before every text and is not scored. Default: a document begins.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="Most tokens to read at once. Default: the model's most.")] = None,
    stride: Annotated[
        int | None, typer.Option(help="Read a longer text in windows that begin so many tokens apart.")
    ] = None,
    dtype: DType = "float32",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="A JSON object for each text, a line each, with every token's log-probability."),
    ] = False,
) -> None:
    """How probable texts are: log-probability, perplexity, bits per byte. Lower bits per byte: the model knew better.

    [bold]Examples[/bold]

    wordkiln score runs/novels "It was a dark night." "Night dark a was it."

    wordkiln score runs/novels --file book.txt --stride 512
    """
    from wordkiln.errors import ArgumentError
    from wordkiln.generation import load

    records: list[dict[str, Any]] = [{"text": text} for text in texts or ()]
    names = [_short(text) for text in texts or ()]
    for path in file or ():
        records.append({"text": read_text(path), "file": path})
        names.append(path)
    if input is not None:
        records += (found := read_records(input, "text"))
        names += [_short(record["text"]) for record in found]
    if not records:
        raise ArgumentError("TEXTS, --file or --input: give one of them at least")
    scores = load(model, dtype).score(
        [record["text"] for record in records], context=context, window=window, stride=stride, special_tokens="text"
    )
    if as_json:
        for record, found_score in zip(records, scores, strict=True):
            print(line_of(_without_file_text(record) | _record_of(found_score)))
    else:
        _show(names, scores)


def _record_of(score: TextScore) -> dict[str, Any]:
    return {
        "tokens": len(score.ids),
        "logprob": score.total,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "ids": score.ids,
        "logprobs": score.logprobs,
    }


def _without_file_text(record: dict[str, Any]) -> dict[str, Any]:
    return {"file": record["file"]} if "file" in record else record


def _show(names: list[str], scores: list[TextScore]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("text", overflow="fold")
    for title in ("tokens", "log-probability", "perplexity", "bits per byte"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, found in zip(names, scores, strict=True):
        numbers = (f"{found.total:,.2f}", f"{found.perplexity:,.3f}", f"{found.bits_per_byte:.4f}")
        table.add_row(Text(name), f"{len(found.ids):,}", *numbers)
    Console().print(table)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
