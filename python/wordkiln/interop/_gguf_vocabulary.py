"""A byte-level BPE tokenizer as GGUF's metadata: what `Tokenizer.from_gguf` and llama.cpp read."""

from __future__ import annotations

import json
from typing import Any

from wordkiln.errors import FormatError
from wordkiln.interop._opened import OpenedModel
from wordkiln.tokenizer import Tokenizer
from wordkiln.tokenizer._gguf import pres_of

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_ENDS = ("eos", "eot", "eom")


def vocabulary(opened: OpenedModel) -> dict[str, Any]:
    """The keys of a model's tokenizer, one token for each row of the embedding.

    Raises:
        FormatError: GGUF or llama.cpp has no place for what the tokenizer does.
    """
    tokenizer = opened.tokenizer
    file = _byte_level_bpe(tokenizer)
    size = opened.architecture.vocab_size
    tokens = [f"[PAD{id}]" for id in range(size)]
    types = [_UNUSED] * size
    for token, id in file["model"]["vocab"].items():
        tokens[id], types[id] = token, _NORMAL
    for added in file.get("added_tokens") or []:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    keys: dict[str, Any] = {"model": "gpt2", "pre": _pre(tokenizer, file), "tokens": tokens, "token_type": types}
    keys["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in file["model"]["merges"]]
    keys |= {"add_bos_token": opened.add_bos, "add_eos_token": False, **_special_ids(opened)}
    metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    if opened.chat_template is not None:
        metadata["tokenizer.chat_template"] = opened.chat_template
    return metadata


def _byte_level_bpe(tokenizer: Tokenizer) -> dict[str, Any]:
    if type(tokenizer) is not Tokenizer:
        raise FormatError(f"tokenizer: is {tokenizer.pattern}: only byte-level BPE can be exported")
    file: dict[str, Any] = json.loads(tokenizer.to_json())
    return file


def _pre(tokenizer: Tokenizer, file: dict[str, Any]) -> str:
    """The name of its way to cut text."""
    whole, normalizes = bool(file["model"].get("ignore_merges")), file.get("normalizer") is not None
    fitting = [pre for pre in pres_of(tokenizer.pattern) if pre.normalizes == normalizes]
    exact = [pre.name for pre in fitting if pre.takes_whole_pieces == whole]
    if exact:
        return exact[0]
    if fitting and _whole_pieces_make_no_difference(tokenizer, file):
        return fitting[0].name
    raise FormatError(
        f"tokenizer: pattern={tokenizer.pattern[:60]!r}, ignore_merges={whole}, "
        f"normalizer={file.get('normalizer')}: llama.cpp has no pre-tokenizer that does so"
    )


def _whole_pieces_make_no_difference(tokenizer: Tokenizer, file: dict[str, Any]) -> bool:
    """Whether the merges make each token of its own text, so that a piece that is a token is taken whole anyway."""
    model = file["model"]
    switched = file | {"model": model | {"ignore_merges": not model["ignore_merges"]}}
    other = type(tokenizer)(json.dumps(switched).encode())
    texts = list(tokenizer.vocabulary.values())
    one, two = (each.encode_batch(texts, disallowed_special=()) for each in (tokenizer, other))
    return one == two


def _special_ids(opened: OpenedModel) -> dict[str, int]:
    ends = opened.architecture.eos_token_ids or (opened.tokenizer.eos_id,)
    if ends[0] is None:
        raise FormatError("the model has no end token (eos_token_id), without which llama.cpp takes id 11 for it")
    ids = {f"{name}_token_id": id for name, id in zip(_ENDS, ends, strict=False) if id is not None}
    for name, other in (("bos", opened.bos_token_id), ("padding", opened.tokenizer.pad_id)):
        if other is not None:
            ids[f"{name}_token_id"] = other
    return ids
