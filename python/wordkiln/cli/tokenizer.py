"""`wordkiln tokenizer`: train, encode, decode, show, compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

tokenizer_app = typer.Typer(
    name="tokenizer",
    help="Train a byte-level BPE tokenizer, or use one: text to ids and back.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_TokenizerPath = Annotated[
    Path, typer.Argument(help="A tokenizer.json, or a directory that holds one.", show_default=False)
]
_Special = Annotated[
    bool, typer.Option("--special", help="Read special tokens such as <|end|> in the text as their ids.")
]


@tokenizer_app.command()
def train(
    sources: Annotated[
        list[Path], typer.Argument(help="Text to learn from: .txt and .jsonl files, or folders of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, or a folder for it.")] = Path(
        "tokenizer.json"
    ),
    vocab_size: Annotated[int, typer.Option(help="Number of ids: 256 bytes, the merges, the special tokens.")] = 8000,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="How text is cut: gpt2, cl100k, o200k, llama3, qwen2, whitespace, bytes or none."
            "  [default: cl100k, or that of --base]",
            show_default=False,
        ),
    ] = None,
    special: Annotated[
        list[str] | None,
        typer.Option(
            help="A special token; repeat for more.  [default: <|end|>, or none with --base]", show_default=False
        ),
    ] = None,
    min_frequency: Annotated[int, typer.Option(help="Merge no pair that is seen less often.")] = 1,
    max_memory: Annotated[
        str, typer.Option(help="Memory that training may take; beyond it long words are cut and rare ones left out.")
    ] = "2GB",
    weight: Annotated[
        list[int] | None,
        typer.Option(help="How often a source counts; repeat, one for each source.", show_default=False),
    ] = None,
    alphabet: Annotated[str, typer.Option(help="Characters that get a token however rare they are.")] = "",
    base: Annotated[
        Path | None, typer.Option(help="A tokenizer to go on from; its ids stay.", show_default=False)
    ] = None,
    ties: Annotated[
        str, typer.Option(help="Order of bytes among equally frequent pairs: alphabet or bytes.")
    ] = "alphabet",
) -> None:
    """Learn a vocabulary from text and write tokenizer.json, which Hugging Face's tokenizers reads too.

    A larger vocabulary makes texts shorter and the model's tables larger; 4000 to 16000 suits a small model.

    Example: [bold]wordkiln tokenizer train books/ --vocab-size 8000 --output tokenizer.json[/bold]
    """
    from wordkiln.errors import PathError
    from wordkiln.tokenizer import Tokenizer

    if not output.is_dir() and not output.parent.is_dir():
        raise PathError(f"{output.parent}: no such folder to write {output.name} to")
    with _progress_bar() as progress:
        tokenizer = Tokenizer.train(
            sources,
            vocab_size=vocab_size,
            pattern=pattern,
            special_tokens=special,
            min_frequency=min_frequency,
            max_memory=max_memory,
            weights=weight,
            initial_alphabet=alphabet,
            base=None if base is None else Tokenizer.load(base),
            ties=ties,
            progress=progress,
        )
    tokenizer.save(output)
    typer.echo(f"{tokenizer!r} written to {output / 'tokenizer.json' if output.is_dir() else output}")


@tokenizer_app.command()
def encode(
    tokenizer: _TokenizerPath,
    text: Annotated[str | None, typer.Argument(help="The text. Without it and --file: standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from this file.")] = None,
    special: _Special = False,
) -> None:
    """Print the ids of a text on one line.

    Examples: [bold]wordkiln tokenizer encode tokenizer.json "Hello there"[/bold] and
    [bold]wordkiln tokenizer encode tokenizer.json < book.txt[/bold]
    """
    from wordkiln.errors import ArgumentError
    from wordkiln.tokenizer import Tokenizer

    if text is not None and file is not None:
        raise ArgumentError("TEXT and --file: give one of them")
    loaded = Tokenizer.load(tokenizer)
    data = _input(file) if text is None else text
    ids = loaded.encode(data, allowed_special="all" if special else (), disallowed_special=() if special else "all")
    typer.echo(" ".join(map(str, ids)))


@tokenizer_app.command()
def decode(
    tokenizer: _TokenizerPath,
    ids: Annotated[list[int] | None, typer.Argument(help="The ids. Without them: standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the ids from this file.")] = None,
) -> None:
    """Print the text of ids, byte for byte as it was encoded.

    Example: [bold]wordkiln tokenizer decode tokenizer.json 72 101 108[/bold]
    """
    from wordkiln.errors import ArgumentError
    from wordkiln.tokenizer import Tokenizer

    if ids and file is not None:
        raise ArgumentError("IDS and --file: give one of them")
    loaded = Tokenizer.load(tokenizer)
    if not ids:
        words = _input(file).replace(b",", b" ").split()
        try:
            ids = [int(word) for word in words]
        except ValueError:
            raise ArgumentError("IDS: must be integers with spaces or commas between them") from None
    data = loaded.decode_bytes(ids)
    # Text on a terminal ends its line; anything else gets the very bytes.
    _standard_output().write(data + b"\n" if sys.stdout.isatty() else data)


@tokenizer_app.command()
def show(
    tokenizer: _TokenizerPath,
    text: Annotated[str | None, typer.Argument(help="The text. Without it and --file: standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the text from this file.")] = None,
    color: Annotated[bool | None, typer.Option("--color/--no-color", help="Colours; else bars.")] = None,
) -> None:
    """Show how a text is cut into tokens, each in a colour.

    Example: [bold]wordkiln tokenizer show tokenizer.json "Hello there"[/bold]
    """
    from wordkiln.errors import ArgumentError
    from wordkiln.tokenizer import Tokenizer

    if text is not None and file is not None:
        raise ArgumentError("TEXT and --file: give one of them")
    Tokenizer.load(tokenizer).show(_input(file) if text is None else text, color=color)


@tokenizer_app.command()
def compare(
    tokenizers: Annotated[
        list[Path], typer.Argument(help="Two or more: tokenizer.json files, or directories.", show_default=False)
    ],
    corpus: Annotated[list[Path], typer.Option("--corpus", "-c", help="A file or folder of text; repeat for more.")],
) -> None:
    """Compare tokenizers on text: bytes per token, the part of the vocabulary in use, speed.

    More bytes per token means shorter texts for the model. There is a line for each file, and where texts are in
    several scripts (Latin, Cyrillic, CJK, ...) one for each of these. Give a file for each language to see
    languages of one script apart.

    Example: [bold]wordkiln tokenizer compare a.json b.json --corpus texts/[/bold]
    """
    from wordkiln.cli._tokenizer_compare import files_of, table
    from wordkiln.tokenizer import Tokenizer

    names = [chr(ord("a") + number) if number < 26 else str(number) for number in range(len(tokenizers))]
    for name, path in zip(names, tokenizers, strict=True):
        typer.echo(f"{name} = {path}")
    typer.echo(table(names, [Tokenizer.load(path) for path in tokenizers], files_of(corpus)))


def _input(file: Path | None) -> bytes:
    from wordkiln.errors import PathError

    if file is None:
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise PathError(f"{file}: cannot be read: {error.strerror or error}") from error


def _standard_output() -> BinaryIO:
    return typer.get_binary_stream("stdout")


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    labels = {"reading": "Reading text", "merging": "Merging pairs"}
    columns = (TextColumn("{task.description:14}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {phase: bar.add_task(label, total=None, done="", start=False) for phase, label in labels.items()}

        def show(phase: str, done: int, total: int | None) -> None:
            bar.start_task(tasks[phase])
            shown = f"{done / 1e6:,.1f} MB" if phase == "reading" else f"{done:,} of {total or 0:,}"
            bar.update(tasks[phase], completed=done, total=total, done=shown)

        yield show
