"""`wordkiln export`: a finished model in the formats of others."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

export_app = typer.Typer(
    help="Write a finished model in a format of others. A Transformer's own directory is Hugging Face's already.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class GgufPrecision(StrEnum):
    """What a GGUF file keeps matrices in."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"


@export_app.command()
def gguf(
    model: Annotated[Path, typer.Argument(help="A run, a checkpoint or a Hugging Face directory, or a .gguf file.")],
    out: Annotated[Path, typer.Argument(help="The file to write, such as model.gguf.")],
    dtype: Annotated[GgufPrecision, typer.Option(help="What matrices are kept in.")] = GgufPrecision.F16,
) -> None:
    """Write a GGUF file, tokenizer included, which llama.cpp runs.

    [bold]Example[/bold]

    wordkiln export gguf runs/mine mine.gguf --dtype q8_0
    """
    from wordkiln.interop import export_gguf
    from wordkiln.models.checkpoint import of_run

    export_gguf(of_run(model), out, dtype.value)
    print(f"{out}: {out.stat().st_size:,} bytes")
