"""`open_model`: which kind of files stand at a path, and what they say."""

from __future__ import annotations

import os
from pathlib import Path

from wordkiln._json_files import read_json
from wordkiln.errors import FormatError, PathError
from wordkiln.interop import _gguf_model, _hf_config, _hf_plan
from wordkiln.interop._generation_config import generation_defaults, with_end_ids
from wordkiln.interop._gguf_file import GgufFile
from wordkiln.interop._layout import check_plan
from wordkiln.interop._opened import OpenedModel, check_vocabulary, prompt_start
from wordkiln.interop._safetensors import open_weights
from wordkiln.interop._source import Weights
from wordkiln.tokenizer import Tokenizer

CONFIG = "config.json"
_CONFIG_LIMIT = 2**20
_FINGERPRINT = "tokenizer_fingerprint"
# llama.cpp's defaults where a file does not say whether a text begins with the begin token.
_BEGINS = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")


def open_model(path: str | os.PathLike[str]) -> OpenedModel:
    """Describe a finished Transformer: its shape, weights, tokenizer and settings. No weight is read yet.

    Args:
        path: a directory of ours or of Hugging Face's (config.json of kind llama, mistral, qwen2, qwen3 or gpt2;
            model.safetensors, or shards with model.safetensors.index.json; tokenizer.json or another tokenizer that
            `Tokenizer.load` reads); a .gguf file (of kind llama, qwen2, qwen3 or gpt2); or a directory with exactly
            one.

    Raises:
        PathError: the path or a file of it is missing or cannot be read.
        FormatError: a file is malformed, or says something that is not computed here; the message has the field.
        DependencyError: a quantised GGUF file without the library `gguf`; a tokenizer that needs a library.
    """
    path = Path(path)
    if path.is_dir():
        if (path / CONFIG).is_file():
            return _open_directory(path)
        return _open_gguf(_only_gguf(path))
    if path.suffix != ".gguf" or not path.is_file():
        what = "is another file" if path.exists() else "does not exist"
        raise PathError(f"{path}: {what}: must be a model's directory or a .gguf file")
    return _open_gguf(path)


def _only_gguf(directory: Path) -> Path:
    files = sorted(file for file in directory.glob("*.gguf") if file.is_file())
    if len(files) == 1:
        return files[0]
    if files:
        raise PathError(f"{directory}: holds {len(files)} .gguf files: name one of them, such as {files[0].name}")
    raise PathError(
        f"{directory}: holds neither {CONFIG} nor a .gguf file, so it is not a directory of a finished model"
    )


def _open_directory(directory: Path) -> OpenedModel:
    config = read_json(directory / CONFIG, _CONFIG_LIMIT)
    try:
        description = _hf_config.describe(config)
    except FormatError as error:
        raise FormatError(f"{directory / CONFIG}: {error}") from error
    tokenizer = _tokenizer(directory, config.get(_FINGERPRINT), description.architecture.vocab_size)
    bos, add_bos = prompt_start(tokenizer)
    return OpenedModel(
        architecture=with_end_ids(description.architecture, directory),
        source=_weights(directory, description),
        tokenizer=tokenizer,
        chat_template=tokenizer.chat_template,
        bos_token_id=bos,
        add_bos=add_bos,
        generation=generation_defaults(directory),
    )


def _weights(directory: Path, description: _hf_config.Description) -> Weights:
    file = open_weights(directory)
    try:
        plan = _hf_plan.plan_of(description, file.shapes)
        check_plan(plan, file.shapes, lambda name: _hf_plan.is_ignorable(description, name))
    except FormatError as error:
        raise FormatError(f"{file.path}: {error}") from error
    file.check_dtypes({part.tensor for part in plan.values()})
    return Weights(plan, file)


def _tokenizer(directory: Path, fingerprint: object, vocab_size: int) -> Tokenizer:
    """The tokenizer of the model: config.json of our own models tells the one that they were saved with."""
    tokenizer = Tokenizer.load(directory)
    if isinstance(fingerprint, str) and fingerprint != tokenizer.fingerprint:
        raise FormatError(
            f"{directory}: the tokenizer is not that of this model (fingerprint "
            f"{tokenizer.fingerprint[:12]}..., saved with {fingerprint[:12]}...)"
        )
    try:
        check_vocabulary(tokenizer, vocab_size)
    except FormatError as error:
        raise FormatError(f"{directory}: {error}") from error
    return tokenizer


def _open_gguf(path: Path) -> OpenedModel:
    try:
        file = GgufFile(path)
        if file.metadata.get("split.count", 1) != 1:
            raise FormatError("is one of several parts: join them by llama.cpp's `llama-gguf-split --merge`")
        architecture, plan = _gguf_model.describe(file)
        check_plan(plan, file.shapes, _gguf_model.is_ignorable)
        file.check_dtypes({part.tensor for part in plan.values()})
        tokenizer = Tokenizer.from_gguf(file.metadata)
        check_vocabulary(tokenizer, architecture.vocab_size)
        starts = file.metadata.get("tokenizer.ggml.model") == "llama"
        bos, add_bos = prompt_start(tokenizer, starts or file.metadata.get("tokenizer.ggml.pre") in _BEGINS)
        file.metadata = {}  # the vocabulary as strings, which would stay for as long as weights are read
        return OpenedModel(
            architecture=architecture,
            source=Weights(plan, file),
            tokenizer=tokenizer,
            chat_template=tokenizer.chat_template,
            bos_token_id=bos,
            add_bos=add_bos,
        )
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
