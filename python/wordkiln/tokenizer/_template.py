"""tokenizer.json's `post_processor`: the special tokens around a text."""

from __future__ import annotations

from typing import Any

from wordkiln.errors import FormatError


def apply(processor: Any, ids: list[int], pair: list[int] | None) -> list[int]:
    """The ids, or those of a pair of texts, with what the processor adds."""
    try:
        return _apply(processor, ids, pair)
    except (KeyError, TypeError, IndexError, AttributeError):
        raise FormatError("post_processor: is not of the form that Hugging Face's tokenizers write") from None


def _apply(processor: Any, ids: list[int], pair: list[int] | None) -> list[int]:
    kind = None if processor is None else processor["type"]
    if kind in (None, "ByteLevel"):
        return ids + (pair or [])
    if kind == "Sequence":
        # ByteLevel moves offsets alone; two that add tokens are found nowhere.
        adding = [step for step in processor["processors"] if step["type"] != "ByteLevel"]
        if len(adding) > 1:
            raise FormatError("post_processor: a Sequence of several that add tokens is not known")
        return _apply(adding[0] if adding else None, ids, pair)
    if kind == "TemplateProcessing":
        return _template(processor, ids, pair)
    if kind in ("BertProcessing", "RobertaProcessing"):
        start, end = [processor["cls"][1]], [processor["sep"][1]]
        second = [] if pair is None else (end if kind == "RobertaProcessing" else []) + pair + end
        return start + ids + end + second
    raise FormatError(f"post_processor: {kind!r} is not known")


def _template(processor: Any, ids: list[int], pair: list[int] | None) -> list[int]:
    sequences = {"A": ids, "B": pair or []}
    result: list[int] = []
    for piece in processor["single" if pair is None else "pair"]:
        if "Sequence" in piece:
            result += sequences[piece["Sequence"]["id"]]
        else:
            result += processor["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
    return result
