"""`wordkiln info`: what is installed here, or what a path holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A checkpoint, a run, a Hugging Face directory, a .gguf file, a data set or a tokenizer.json; "
            "without it: this installation."
        ),
    ] = None,
) -> None:
    """Tell what a path holds, or what this installation has.

    [bold]Examples[/bold]

    wordkiln info

    wordkiln info runs/mine
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in describe_installation() if path is None else describe_path(path):
        table.add_row(f"[bold]{name}[/bold]", value)
    Console().print(table)


def describe_installation() -> list[tuple[str, str]]:
    """Versions, threads and the kernels' instruction set, as (name, value) rows."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import wordkiln
    from wordkiln.runtime import instruction_sets

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    current, available = instruction_sets()
    return [
        ("wordkiln", wordkiln.__version__),
        ("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("kernels", f"{current} (this machine runs {', '.join(available)}; WORDKILN_ISA chooses)"),
        ("threads", str(wordkiln.get_num_threads())),
        ("numpy", installed("numpy")),
        ("torch", f"{installed('torch')} (needed for training only)"),
    ]


def describe_path(path: Path) -> list[tuple[str, str]]:
    """What stands at `path`, as (name, value) rows.

    Raises:
        PathError: there is nothing, or nothing of ours.
    """
    from wordkiln.errors import PathError

    if not path.exists():
        raise PathError(f"{path}: no such file or directory")
    rows: list[tuple[str, str]] = []
    if path.suffix == ".gguf":
        return _describe_decoder(path)
    if path.is_file():
        return _describe_tokenizer(path)
    for folder in (path, path / "best", path / "last"):
        if (folder / "config.json").is_file():
            rows += _describe_model(folder)
            break
    if (path / "tokenizer.json").is_file():
        rows += _describe_tokenizer(path)
    for folder in (path, path / "data"):
        if (folder / "manifest.json").is_file():
            rows += _describe_dataset(folder)
            break
    if not rows:
        raise PathError(f"{path}: holds no config.json, tokenizer.json or manifest.json")
    return rows


def _describe_model(folder: Path) -> list[tuple[str, str]]:
    from wordkiln.errors import FormatError
    from wordkiln.models import ModelConfig

    try:
        config = ModelConfig.load(folder)
    except FormatError:
        return _describe_decoder(folder)[:3]
    fields = {name: value for name, value in config.to_dict().items() if isinstance(value, int | float)}
    return [
        ("model", f"{config.kind} in {folder}"),
        ("parameters", f"{config.num_parameters:,}"),
        ("shape", ", ".join(f"{name} {value}" for name, value in sorted(fields.items()))),
    ]


def _describe_decoder(path: Path) -> list[tuple[str, str]]:
    """A Transformer of others: the model in three rows, then its tokenizer."""
    import dataclasses

    from wordkiln.interop import open_model

    opened = open_model(path)
    fields = dataclasses.asdict(opened.architecture)
    shown = {name: value for name, value in fields.items() if isinstance(value, int | float | str)}
    tokenizer = opened.tokenizer
    return [
        ("model", f"transformer in {path}"),
        ("parameters", f"{opened.num_parameters:,}"),
        ("shape", ", ".join(f"{name} {value}" for name, value in sorted(shown.items()))),
        ("tokenizer", f"{tokenizer.vocab_size:,} tokens, pattern {tokenizer.pattern!r}"),
    ]


def _describe_tokenizer(path: Path) -> list[tuple[str, str]]:
    from wordkiln.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(path)
    return [
        ("tokenizer", f"byte-level BPE, {tokenizer.vocab_size:,} tokens, pattern {tokenizer.pattern}"),
        ("special tokens", ", ".join(f"{token} = {id_}" for token, id_ in tokenizer.special_tokens.items()) or "none"),
    ]


def _describe_dataset(folder: Path) -> list[tuple[str, str]]:
    from wordkiln.data import TokenDataset

    dataset = TokenDataset.load(folder)
    return [
        (name, f"{split.num_tokens:,} tokens, {split.num_bytes:,} bytes of text")
        for name, split in (("train", dataset.train), ("valid", dataset.valid))
    ]
