"""vocab.txt, BERT's own file: one token a line, its number the id."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from wordkiln.errors import FormatError

_LONGEST_WORD = 100


def tokenizer_json(tokens: Sequence[str], settings: Mapping[str, Any]) -> bytes:
    """The tokenizer.json that does what BERT does with these tokens.

    Args:
        tokens: The token of each id.
        settings: tokenizer_config.json: `do_lower_case` (default true), `strip_accents`, `tokenize_chinese_chars` and
            the special tokens' texts.

    Raises:
        FormatError: A token stands there twice, or [UNK] does not.
    """
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        twice = next(token for id, token in enumerate(tokens) if ids[token] != id)
        raise FormatError(f"vocab.txt: token {twice!r} stands there twice")
    unknown, first, last = (_name(settings, name) for name in ("unk", "cls", "sep"))
    if unknown not in ids:
        raise FormatError(f"vocab.txt: has no {unknown!r}, which stands for what has no token")
    specials = [
        name for name in (_name(settings, kind) for kind in ("pad", "unk", "cls", "sep", "mask")) if name in ids
    ]
    ends = first in ids and last in ids
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    accents = settings.get("strip_accents")
    file = {
        "version": "1.0",
        "added_tokens": [{"id": ids[name], "content": name, **plain} for name in specials],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
            "strip_accents": None if accents is None else bool(accents),
            "lowercase": bool(settings.get("do_lower_case", True)),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "cls": [first, ids[first]], "sep": [last, ids[last]]}
        if ends
        else None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": _LONGEST_WORD,
            "vocab": ids,
        },
    }
    return json.dumps(file, ensure_ascii=False).encode("utf-8", "replace")


def lines(content: bytes) -> list[str]:
    """The tokens of a vocab.txt.

    Raises:
        FormatError: It is not UTF-8.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"vocab.txt: is not UTF-8: {error}") from None
    found = text.split("\n")
    return [line.rstrip("\r") for line in (found[:-1] if found[-1] == "" else found)]


def _name(settings: Mapping[str, Any], kind: str) -> str:
    token = settings.get(f"{kind}_token")
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else f"[{kind.upper()}]"
