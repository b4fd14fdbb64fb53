"""`OpenedModel`: what is in a finished model's files, none of its weights read yet."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

from wordkiln.errors import FormatError
from wordkiln.interop._layout import tensor_shapes
from wordkiln.runtime.architecture import Architecture, TensorSource
from wordkiln.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A Transformer decoder of any of the files that `open_model` takes.

    Attributes:
        architecture: its shape.
        source: its weights, each read when it is asked for. The files must not change meanwhile.
        tokenizer: text to ids. It may have fewer ids than the model: see `unused_ids`.
        chat_template: the Jinja template of the tokenizer, or None.
        bos_token_id: the id of a text's begin, or None.
        add_bos: whether the ids of a prompt must start with `bos_token_id`, which `Tokenizer.encode` does not add.
        generation: settings that the files recommend (generation_config.json): `GENERATION_DEFAULTS` are the names.
    """

    architecture: Architecture
    source: TensorSource
    tokenizer: Tokenizer
    chat_template: str | None = None
    bos_token_id: int | None = None
    add_bos: bool = False
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def num_parameters(self) -> int:
        """Number of weights; a tied head counts once."""
        names = self.source.names()
        biases = {name.split(".")[-2] for name in names if name.endswith(".bias")}
        shapes = tensor_shapes(self.architecture, biases=biases, tied="head.weight" not in names)
        return sum(math.prod(shape) for shape in shapes.values())

    @functools.cached_property
    def unused_ids(self) -> tuple[int, ...]:
        """Ids of the model that the tokenizer has no token for, and which must never be chosen.

        Many models have more rows in their embedding than tokens, for speed.
        """
        known = self.tokenizer.vocabulary
        if len(known) == self.architecture.vocab_size:
            return ()
        return tuple(id for id in range(self.architecture.vocab_size) if id not in known)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse a tokenizer with ids that the model does not have.

    Raises:
        FormatError: it has.
    """
    if tokenizer.vocab_size > vocab_size:
        raise FormatError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, but the model's vocab_size is {vocab_size}: "
            "it is not the tokenizer of this model"
        )


def prompt_start(tokenizer: Tokenizer, default: bool = False) -> tuple[int | None, bool]:
    """`bos_token_id` and `add_bos` of a tokenizer: what its settings say, else what its file puts before a text.

    Args:
        tokenizer: of a directory or GGUF file, with its settings.
        default: where neither says anything.
    """
    before = _ids_before_a_text(tokenizer)
    bos = tokenizer.bos_id if tokenizer.bos_id is not None else before
    asked = tokenizer.settings.get("add_bos_token")
    if not isinstance(asked, bool):
        asked = default or before is not None
    return bos, asked and bos is not None


def _ids_before_a_text(tokenizer: Tokenizer) -> int | None:
    ids = tokenizer.add_special_tokens([-1])  # no id, so it is found again
    return ids[0] if ids and ids[0] != -1 else None
