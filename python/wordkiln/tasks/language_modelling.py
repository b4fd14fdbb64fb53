"""Language modelling: from text files to a run directory with a trained model in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wordkiln._files import write_directory
from wordkiln.data import Corpus, TokenDataset
from wordkiln.errors import ArgumentError, DependencyError
from wordkiln.models import ModelConfig
from wordkiln.models.config import Kind
from wordkiln.tokenizer import Tokenizer
from wordkiln.training import TrainingConfig

if TYPE_CHECKING:
    from wordkiln.training import TrainingResult

Source = str | os.PathLike[str]


def train_language_model(
    sources: Source | Sequence[Source],
    output_dir: Source,
    *,
    kind: str = "lstm",
    valid_sources: Source | Sequence[Source] | None = None,
    include: Sequence[str] | None = None,
    tokenizer: Tokenizer | Source | None = None,
    vocab_size: int = 8000,
    pattern: str = "cl100k",
    model: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    device: str = "cpu",
    resume: bool = False,
    say: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a tokenizer (unless one is given) and a language model on text.

    `output_dir` becomes a run directory: ``tokenizer.json``, ``data/`` (token shards), ``best/`` and ``last/``
    (checkpoints that `wordkiln.load` opens), ``log.csv`` and ``loss.png``.

    Args:
        sources: Text files (.txt, .jsonl, source code) or folders of them.
        output_dir: Where the run goes. It must not hold another run, unless `resume`.
        kind: "lstm", "gru", "rnn" or "transformer".
        valid_sources: Files to hold out. Without it a part of `sources` is held out.
        include: Name patterns of the files to take from folders, such as ``["*.py"]``.
        tokenizer: A Tokenizer or the path of one; without it one of `vocab_size` tokens is trained on `sources`.
        vocab_size: Size of that vocabulary.
        pattern: Pre-tokenization pattern of that tokenizer.
        model: Fields of `wordkiln.models.ModelConfig`, such as ``{"hidden_size": 512}``.
        training: Fields of `wordkiln.training.TrainingConfig`, such as ``{"max_steps": 5000}``.
        device: Where the model is trained, as torch names it: "cpu", "cuda", "cuda:1".
        resume: Go on with the run that `output_dir` holds, on this device or another.
        say: Called with one line at the start of each part.

    Raises:
        ArgumentError: a field is out of its range, `output_dir` holds a run and `resume` is false, or there is no such
            device.
        PathError: a source is missing or unreadable.
        FormatError: a source is malformed, or `resume` finds a run of another tokenizer or model.
        DependencyError: torch is not installed.
    """
    if find_spec("torch") is None:
        raise DependencyError("training needs torch: pip install 'wordkiln[train]'")
    say = say or (lambda line: None)
    output_dir = Path(output_dir)
    settings = TrainingConfig(**(training or {}))
    if device != "cpu":
        _check_device(device)
    if resume:
        tok = Tokenizer.load(output_dir)
        dataset = TokenDataset.load(output_dir / "data")
    else:
        if output_dir.exists() and any(output_dir.iterdir()):
            raise ArgumentError(f"output_dir={output_dir}: is not empty; choose another, or resume the run in it")
        tok = _tokenizer(sources, include, tokenizer, vocab_size, pattern, say)
        # Before the corpus is tokenized: a wrong size must not cost minutes first.
        config = _model_config(kind, tok, model or {}, settings)
        say("tokenizing the corpus")
        with write_directory(output_dir) as folder:
            TokenDataset.build(sources, tok, folder / "data", valid_sources=valid_sources, include=include)
            tok.save(folder / "tokenizer.json")
        dataset = TokenDataset.load(output_dir / "data")
    # Here, behind all that a user can get wrong: to import torch takes seconds.
    import torch

    from wordkiln.models import CausalLM
    from wordkiln.training import Trainer

    if resume:
        network = CausalLM.from_pretrained(output_dir / "last", device=device)
    else:
        torch.manual_seed(settings.seed)
        network = CausalLM(config).to(device)
    say(
        f"training a {network.config.kind} of {network.num_parameters():,} parameters"
        f" on {dataset.train.num_tokens:,} tokens; {dataset.valid.num_tokens:,} held out"
    )
    return Trainer(network, dataset, output_dir, tokenizer=tok, config=settings).fit(resume=resume)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device).item()  # "meta" is a device, too, but its tensors have no numbers
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts that it has it
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"device={device!r}: torch {torch.__version__} cannot use it: {reason}") from error


def _tokenizer(
    sources: Source | Sequence[Source],
    include: Sequence[str] | None,
    given: Tokenizer | Source | None,
    vocab_size: int,
    pattern: str,
    say: Callable[[str], None],
) -> Tokenizer:
    if isinstance(given, Tokenizer):
        return given
    if given is not None:
        return Tokenizer.load(given)
    corpus = Corpus(sources, include=include)
    say(f"training a tokenizer of {vocab_size:,} tokens on {len(corpus.files):,} files")
    return Tokenizer.train((piece.text for piece in corpus.pieces()), vocab_size=vocab_size, pattern=pattern)


def _model_config(kind: str, tok: Tokenizer, fields: Mapping[str, Any], settings: TrainingConfig) -> ModelConfig:
    fields = {"eos_token_id": tok.end_id, **fields}
    if kind == "transformer":
        fields.setdefault("num_hidden_layers", 6)
        fields.setdefault("max_position_embeddings", max(2048, settings.sequence_length))
    # ModelConfig checks the name.
    return ModelConfig(kind=cast(Kind, kind), vocab_size=tok.vocab_size, **fields)
