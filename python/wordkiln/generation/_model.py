"""`LanguageModel`: a model and its tokenizer, writing and scoring text."""

from __future__ import annotations

from wordkiln.generation._chatting import Chatting
from wordkiln.generation._scoring import Scoring
from wordkiln.generation._searching import Searching
from wordkiln.generation._writing import Writing


class LanguageModel(Writing, Chatting, Searching, Scoring):
    """A model and its tokenizer, writing and scoring text.

    Every method that writes takes the settings of `GenerationSettings` and `SamplingParams` by name; one that is
    unknown or out of its range is an `ArgumentError`.

    Args:
        model: anything with the step protocol: a runtime model, or `wordkiln.models.CausalLM`.
        tokenizer: the tokenizer that the model was trained with.
        end_ids: tokens that end a text. Default: the model's `eos_token_id`, else the tokenizer's end-of-document
            token, else none.
        beginning: ids that every text begins with. Default: those that the tokenizer's file asks for (a BOS token).
        chat_template: Jinja, for `chat`. Default: the tokenizer's.
        recommended: settings where a caller names none, such as those of generation_config.json
            (docs/generation.md). Default: none.

    Attributes:
        model: see above.
        tokenizer: see above.
        end_ids: see above.
        recommended: see above; may be changed.
        end_id: one of them, the token that a document ends with; or None.

    Raises:
        ArgumentError: the tokenizer has more tokens than the model.
    """
