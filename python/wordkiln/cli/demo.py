"""`wordkiln demo`: a tokenizer and two language models from text that is already here, and what they write."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from wordkiln.data import TokenDataset
    from wordkiln.models.config import Kind
    from wordkiln.tokenizer import Tokenizer
    from wordkiln.training import TrainingResult

# Small on purpose: two minutes show a model a million tokens or two, too few to learn thousands of rare ones.
VOCAB_SIZE = 512

# Sized for two cores and two minutes each; `wordkiln train` has room for more.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "lstm": {
        "model": {"hidden_size": 320, "num_hidden_layers": 1},
        "training": {"batch_size": 16, "sequence_length": 64, "learning_rate": 8e-3, "max_steps": 2100},
    },
    "transformer": {
        "model": {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3},
        "training": {"batch_size": 8, "sequence_length": 96, "learning_rate": 3e-3, "max_steps": 1750},
    },
}
# Parts of the standard library that are not prose of its kind: tests, generated tables, an editor, installed packages.
SKIPPED_FOLDERS = {"test", "tests", "idlelib", "lib2to3", "pydoc_data", "encodings", "site-packages", "dist-packages"}
HELD_OUT_PERCENT = 5


@dataclass(frozen=True)
class Outcome:
    """One row of the table at the end."""

    kind: str
    run: Path
    parameters: int
    result: TrainingResult


def demo(
    corpus: Annotated[
        Path | None,
        typer.Option(help="A text file or a folder of them; without it the source of Python's standard library."),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Names to take from a folder, such as '*.md'; default *.txt and *.jsonl.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the tokenizer, data and runs.")] = Path(
        "demo-out"
    ),
    scale: Annotated[float, typer.Option(help="Share of the usual training steps (0.01 is a smoke test).")] = 1.0,
) -> None:
    """Train a tokenizer, an LSTM and a Transformer on text that is already here, compare them, and write with them.

    Takes about four minutes on two cores. Everything stays in --output, where `wordkiln generate` finds it.
    """
    import shutil

    from rich.console import Console

    console = Console()
    train_files, valid_files = split_files(corpus, include)
    shutil.rmtree(output, ignore_errors=True)
    tokenizer, dataset = _prepare(console, train_files, valid_files, output)
    outcomes = [_train(console, kind, tokenizer, dataset, output, scale) for kind in RECIPES]
    _print_table(console, tokenizer, dataset, outcomes)
    _print_samples(console, outcomes, "def " if corpus is None else "")


def split_files(corpus: Path | None, include: Sequence[str] | None = None) -> tuple[list[Path], list[Path]]:
    """The files to train on and the files to hold out: chosen by the hash of their names, so the same everywhere."""
    from wordkiln.data import find_files
    from wordkiln.errors import PathError

    if corpus is not None:
        root, files = corpus, find_files([corpus], include=include)
    else:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [
            file
            for file in find_files([root], include=["*.py"])
            if SKIPPED_FOLDERS.isdisjoint(file.relative_to(root).parts)
        ]
    if not files:
        raise PathError(f"{root}: holds no text files")
    if len(files) < 100 // HELD_OUT_PERCENT:
        return files, []
    order = sorted(files, key=lambda file: hashlib.sha256(str(file.relative_to(root)).encode()).digest())
    held_out = len(files) * HELD_OUT_PERCENT // 100
    return sorted(order[held_out:]), sorted(order[:held_out])


def _prepare(console: Any, train_files: Sequence[Path], valid_files: Sequence[Path], output: Path) -> Any:
    import time

    from wordkiln.data import TokenDataset
    from wordkiln.tokenizer import Tokenizer

    console.print(f"[bold]1[/bold] tokenizer: {VOCAB_SIZE:,} tokens from {len(train_files):,} files")
    start = time.perf_counter()
    tokenizer = Tokenizer.train(train_files, vocab_size=VOCAB_SIZE)
    tokenizer.save(output / "tokenizer.json")
    console.print(f"  {time.perf_counter() - start:.1f} s")
    console.print(f"[bold]2[/bold] token shards, {len(valid_files) or 'a part of one'} file(s) held out")
    start = time.perf_counter()
    dataset = TokenDataset.build(train_files, tokenizer, output / "data", valid_sources=valid_files or None)
    console.print(
        f"  {dataset.train.num_tokens + dataset.valid.num_tokens:,} tokens, {time.perf_counter() - start:.1f} s"
    )
    return tokenizer, dataset


def _train(console: Any, kind: str, tokenizer: Tokenizer, dataset: TokenDataset, output: Path, scale: float) -> Outcome:
    import torch

    from wordkiln.models import CausalLM, ModelConfig
    from wordkiln.training import Trainer

    recipe = RECIPES[kind]
    torch.manual_seed(0)
    model = CausalLM(
        ModelConfig(
            kind=cast("Kind", kind), vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.end_id, **recipe["model"]
        )
    )
    console.print(f"[bold]{3 if kind == 'lstm' else 4}[/bold] {kind}: {model.num_parameters():,} parameters")
    fields = dict(recipe["training"])
    fields["max_steps"] = max(10, round(fields["max_steps"] * scale))
    fields["eval_every"] = max(1, fields["max_steps"] // 2)
    run = output / kind
    result = Trainer(model, dataset, run, tokenizer=tokenizer, **fields).fit()
    return Outcome(kind, run, model.num_parameters(), result)


def held_out_text(tokenizer: Tokenizer, dataset: TokenDataset) -> bytes:
    """The held-out documents one after another, without the end tokens between them."""
    ids = dataset.valid.ids(0, dataset.valid.num_tokens)
    return tokenizer.decode_bytes(ids[ids != tokenizer.end_id].tolist())


def unigram_bits_per_byte(dataset: TokenDataset) -> float:
    """Entropy of the held-out tokens' own frequencies, in bits per byte of their text.

    What the best possible model that knows no context would need; the models' figures are for the same tokens.
    """
    import numpy as np

    ids = dataset.valid.ids(0, dataset.valid.num_tokens)
    counts = np.bincount(ids)
    shares = counts[counts > 0] / len(ids)
    return float(-(shares * np.log2(shares)).sum() * len(ids) / dataset.valid.num_bytes)


def _print_table(console: Any, tokenizer: Tokenizer, dataset: TokenDataset, outcomes: Sequence[Outcome]) -> None:
    from rich.table import Table

    text = held_out_text(tokenizer, dataset)
    unigram = unigram_bits_per_byte(dataset)
    table = Table(title=f"held-out text: {len(text):,} bytes, {dataset.valid.num_tokens:,} tokens")
    for name in ("model", "parameters", "bits per byte", "of unigram", "tokens/s"):
        table.add_column(name, justify="left" if name == "model" else "right")

    def add(name: str, bits: float, parameters: str = "", speed: str = "") -> None:
        table.add_row(name, parameters, f"{bits:.3f}", f"{bits / unigram:.2f}", speed)

    add("unigram entropy", unigram)
    add("gzip -9", len(gzip.compress(text, 9)) * 8 / len(text))
    add("xz -9", len(lzma.compress(text, preset=9)) * 8 / len(text))
    for outcome in outcomes:
        result = outcome.result
        add(outcome.kind, result.bits_per_byte, f"{outcome.parameters:,}", f"{result.tokens_per_second:,.0f}")
    console.print(table)
    for outcome in outcomes:
        console.print(f"loss of the {outcome.kind}: {outcome.result.picture_path}")


def _print_samples(console: Any, outcomes: Sequence[Outcome], prompt: str) -> None:
    from wordkiln.generation import load

    for outcome in outcomes:
        console.rule(f"the {outcome.kind} writes")
        for piece in load(outcome.run).stream(prompt, max_new_tokens=120, temperature=0.8, top_p=0.95, seed=1):
            print(piece, end="", flush=True)
        print()
    console.print(f"\nmore of it: wordkiln generate {outcomes[0].run} --prompt 'import '")
