"""Mistral's tekken.json: tiktoken's ranks in JSON, with the special tokens before them."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from wordkiln import _rust
from wordkiln.errors import ArgumentError, FormatError

# What files without a list of their own mean; the rest up to their number are <SPECIAL_n>.
_NAMES = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS]"
)
_NAMES += (
    " [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
)


def is_tekken(file: Any) -> bool:
    """Whether a JSON file is of this kind."""
    return isinstance(file, dict) and isinstance(file.get("config"), dict) and isinstance(file.get("vocab"), list)


def tokenizer_json(file: Any) -> bytes:
    """The tokenizer.json with the same ids.

    Raises:
        FormatError: It is malformed.
    """
    config = file["config"]
    number, size = (_size(config, name) for name in ("default_num_special_tokens", "default_vocab_size"))
    if size < number:
        raise FormatError(f"tekken.json: default_vocab_size={size}: is less than default_num_special_tokens={number}")
    names = _special_names(file.get("special_tokens"), number)
    lines = []
    for rank, entry in enumerate(file["vocab"][: size - number]):
        try:
            token = base64.b64decode(entry["token_bytes"], validate=True)
            given = entry["rank"]
        except (KeyError, TypeError, ValueError, binascii.Error):
            raise FormatError(f"tekken.json: vocab[{rank}] has no rank and base64 token_bytes") from None
        if given != rank:
            raise FormatError(f"tekken.json: vocab[{rank}] has rank {given!r}")
        lines.append(base64.b64encode(token) + b" %d\n" % rank)
    pattern = config.get("pattern")
    if not isinstance(pattern, str):
        raise FormatError("tekken.json: config.pattern is missing")
    try:
        core = _rust.tokenizer_from_tiktoken(b"".join(lines), pattern, [])
    except ArgumentError as error:
        raise FormatError(f"tekken.json: {error}") from None
    made = json.loads(core.to_json())
    vocab = made["model"]["vocab"]
    made["model"]["vocab"] = {token: id + number for token, id in vocab.items()}
    made["added_tokens"] = [{"id": id, "content": name, "special": True} for id, name in enumerate(names)]
    return json.dumps(made).encode()


def _size(config: Any, name: str) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**22:
        raise FormatError(f"tekken.json: config.{name}={value!r}: must be 0 to {2**22 - 1}")
    return value


def _special_names(given: Any, number: int) -> list[str]:
    names = _NAMES.split()[:number]
    if given is not None:
        try:
            names = [entry["token_str"] for entry in sorted(given, key=lambda entry: entry["rank"])]
        except (KeyError, TypeError):
            raise FormatError("tekken.json: special_tokens: must be a list of rank and token_str") from None
        if len(names) > number or not all(isinstance(name, str) for name in names):
            raise FormatError(f"tekken.json: special_tokens: must be at most {number} strings")
    return names + [f"<SPECIAL_{id}>" for id in range(len(names), number)]
