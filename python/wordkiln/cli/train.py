"""`wordkiln train`: from text files to a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    sources: Annotated[list[Path], typer.Argument(help="Text files (.txt, .jsonl, source code) or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run: checkpoints, log and picture.")],
    kind: Annotated[str, typer.Option(help="lstm, gru, rnn or transformer.")] = "lstm",
    valid: Annotated[list[Path] | None, typer.Option(help="File or folder to hold out (repeat for several).")] = None,
    include: Annotated[list[str] | None, typer.Option(help="Names to take from folders, such as '*.py'.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A finished tokenizer.json instead of a new one.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Tokens of the new tokenizer.")] = 8000,
    pattern: Annotated[str, typer.Option(help="How the new tokenizer splits text into words.")] = "cl100k",
    hidden_size: Annotated[int, typer.Option(help="Width of the model.")] = 384,
    layers: Annotated[int | None, typer.Option(help="Layers of the model; default 2, transformer 6.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads (transformer); default width / 64.")] = None,
    dropout: Annotated[float, typer.Option(help="0 to 1; more for little text and many steps.")] = 0.1,
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 2000,
    batch_size: Annotated[int, typer.Option(help="Sequences in a step.")] = 16,
    sequence_length: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    patience: Annotated[int | None, typer.Option(help="Stop after this many validations without gain.")] = None,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 where the processor has it.")] = "float32",
    seed: Annotated[int, typer.Option(help="Same seed, machine and threads: same model.")] = 0,
    threads: Annotated[int | None, typer.Option(help="Threads to use; default all.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda where torch finds a GPU.")] = "cpu",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
) -> None:
    """Train a tokenizer and a language model on your text.

    Ctrl-C saves the run; --resume goes on with it as if it had never stopped.

    [bold]Examples[/bold]

    wordkiln train novels/ -o runs/novels

    wordkiln train src/ --include '*.py' --kind transformer --steps 5000 -o runs/code

    wordkiln generate runs/novels --prompt "Once upon"
    """
    from rich.console import Console

    from wordkiln._threads import set_num_threads
    from wordkiln.tasks import train_language_model

    if threads is not None:
        set_num_threads(threads)
    model: dict[str, object] = {"hidden_size": hidden_size, "dropout": dropout}
    if layers is not None:
        model["num_hidden_layers"] = layers
    if heads is not None:
        model["num_attention_heads"] = heads
    training: dict[str, object] = {
        "max_steps": steps,
        "batch_size": batch_size,
        "sequence_length": sequence_length,
        "learning_rate": learning_rate,
        "seed": seed,
        "precision": precision,
    }
    if patience is not None:
        training["patience"] = patience
    console = Console()
    result = train_language_model(
        sources,
        output,
        kind=kind,
        valid_sources=valid,
        include=include,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        pattern=pattern,
        model=model,
        training=training,
        device=device,
        resume=resume,
        say=console.print,
    )
    console.print(f"best on held-out text: {result.bits_per_byte:.3f} bits per byte after {result.best_step:,} steps")
    console.print(f"picture: {result.picture_path}")
    console.print(f"next: wordkiln generate {output} --prompt '...'")
