"""Searching the most probable continuations of a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

from wordkiln.errors import Interrupted
from wordkiln.generation._base import ModelBase
from wordkiln.generation._beam import BeamFinish, BeamParams, Hypothesis, beam_search
from wordkiln.generation._prompt import constraint_of
from wordkiln.generation._recommended import with_recommended
from wordkiln.generation._settings import Settings, SpecialTokens, check_names


class BeamSettings(TypedDict, total=False):
    """What `beam` takes by name: fields of `BeamParams`, which says what each means, and those of the prompt.

    Attributes:
        prefix: what every text begins with, after the prompt; it counts for score and length.
        bad_words: see `GenerationSettings`, and so all that follow.
        schema: see there.
        regex: see there.
        choices: see there.
        grammar: see there.
        truncate: see there.
        special_tokens: see there.
    """

    num_beams: int
    num_return: int
    length_penalty: float
    early_stopping: bool | Literal["never"]
    num_beam_groups: int
    diversity_penalty: float
    max_new_tokens: int
    min_new_tokens: int
    no_repeat_ngram_size: int
    prefix: str
    bad_words: Sequence[str]
    schema: str | Mapping[str, Any] | bool | None
    regex: str | None
    choices: Sequence[str] | None
    grammar: str | None
    truncate: Literal["left"] | None
    special_tokens: SpecialTokens


@dataclasses.dataclass(frozen=True)
class BeamCompletion:
    """A text that a search found.

    Attributes:
        text: without the prompt and the end token.
        ids: its tokens, the end token included.
        score: the sum of their natural log-probabilities, less what diversity cost, over len(ids)**length_penalty.
        finish_reason: "end": the end token came; "length": max_new_tokens; "interrupted": Ctrl-C.
    """

    text: str
    ids: list[int]
    score: float
    finish_reason: BeamFinish


class Searching(ModelBase):
    """See `LanguageModel`."""

    @overload
    def beam(  # type: ignore[overload-overlap]  # a str is a sequence of them as well
        self, prompt: str, **settings: Unpack[BeamSettings]
    ) -> list[BeamCompletion]: ...

    @overload
    def beam(self, prompt: Sequence[str], **settings: Unpack[BeamSettings]) -> list[list[BeamCompletion]]: ...

    def beam(
        self, prompt: str | Sequence[str], **settings: Unpack[BeamSettings]
    ) -> list[BeamCompletion] | list[list[BeamCompletion]]:
        """Search the most probable continuations of a prompt, or of several at once (docs/beam.md).

        Args:
            prompt: a text, or a list of them.
            settings: num_beams, num_return, length_penalty, max_new_tokens and all others of `BeamSettings`.

        Returns:
            The `num_return` best texts of the prompt, the best first (fewer where so few exist); for a list of prompts
            a list of these.

        Raises:
            ArgumentError: a setting is unknown or out of its range; a prompt is as `generate` refuses it; the model
                gave logits that cannot be searched.
            Interrupted: Ctrl-C; `completions` is what would have been returned, of the texts as far as they go.
        """
        known = BeamSettings.__annotations__.keys()
        check_names(settings, known)
        given = with_recommended(settings, self.recommended, known)
        names = ("bad_words", "truncate", "special_tokens", "schema", "regex", "choices", "grammar")
        reading: dict[str, Any] = {name: given.pop(name) for name in names if name in given}
        checked = Settings.check(reading, self.model.vocab_size)
        prefix = given.pop("prefix", None)
        bad_words = self._reader.words(checked.bad_words)
        params = BeamParams(end_ids=sorted(self.end_ids), bad_words=bad_words, **given)
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        rows = [
            self._reader.read(
                "prompt" if isinstance(prompt, str) else f"prompt[{place}]", text, params.max_new_tokens, checked
            )
            for place, text in enumerate(prompts)
        ]
        if prefix is not None:
            ids = self._reader.encode("prefix", prefix, checked.special_tokens)
            params = dataclasses.replace(params, forced_prefix=[ids] * len(rows))
        constraint = constraint_of(checked, self.tokenizer, self.end_ids)

        def shown(found: list[list[Hypothesis]]) -> list[BeamCompletion] | list[list[BeamCompletion]]:
            texts = [[self._completion(text) for text in one] for one in found]
            return texts[0] if isinstance(prompt, str) else texts

        try:
            return shown(beam_search(self.model, rows, params, constraint))
        except Interrupted as stop:
            raise Interrupted(shown(stop.completions)) from None

    def _completion(self, found: Hypothesis) -> BeamCompletion:
        decoder = self.tokenizer.decode_stream()
        text = "".join(decoder.push(token_id) for token_id in found.ids if token_id not in self.end_ids)
        return BeamCompletion(text + decoder.finish(), found.ids, found.score, found.finish_reason)
