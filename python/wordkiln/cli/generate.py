"""`wordkiln generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def generate(
    model: Annotated[Path, typer.Argument(help="A checkpoint directory, or a run directory of `wordkiln train`.")],
    prompt: Annotated[str, typer.Option(help="The text to continue; '-' reads it from standard input.")] = "",
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens to write.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the most probable token.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Choose among this many most probable tokens; 0: among all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Choose among the most probable tokens that hold this probability; 1: among all.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text; without it, a new one.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="A string that ends the text; may be given several times.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="How many texts to write.", min=1)] = 1,
) -> None:
    """Continue a prompt, writing as the model does. Ctrl-C stops and keeps what is written."""
    import secrets

    from wordkiln.generation import derive_seed, load

    language_model = load(model)
    if prompt == "-":
        prompt = sys.stdin.read()
    seed = secrets.randbits(64) if seed is None else seed
    for sample in range(n):
        if n > 1:
            print(f"--- {sample + 1} of {n}")
        pieces = language_model.stream(
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=derive_seed(seed, sample),
            stop=stop or (),
        )
        print(prompt, end="", flush=True)
        try:
            for piece in pieces:
                print(piece, end="", flush=True)
            stopped = pieces.finish_reason == "interrupted"
        except KeyboardInterrupt:  # it came while the terminal was being written to
            stopped = True
        print()
        if stopped:
            break
