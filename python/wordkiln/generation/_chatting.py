"""Answering conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from wordkiln.errors import ArgumentError
from wordkiln.generation import _chat
from wordkiln.generation._base import ModelBase, only
from wordkiln.generation._prompt import seeds
from wordkiln.generation._row import Completion
from wordkiln.generation._settings import GenerationSettings, Settings
from wordkiln.generation._stream import TextStream


class Chatting(ModelBase):
    """See `LanguageModel`."""

    def chat(
        self,
        messages: Sequence[_chat.Message],
        *,
        add_generation_prompt: bool = True,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> Completion:
        """Answer a conversation.

        Args:
            messages: `{"role": ..., "content": ...}` each; roles are those of the model's template, such as "system",
                "user", "assistant". The text of a special token in them stays text: no message can forge another's.
            add_generation_prompt: begin the assistant's turn, so that the model writes it.
            template: a Jinja template in the place of the model's own.
            variables: more that the template may use: `tools`, `enable_thinking`, ...
            settings: as for `generate`.

        Raises:
            ArgumentError: as `generate`; the messages or the template are wrong, or take too much (docs/generation.md).
            DependencyError: jinja2 is not installed.
            Interrupted: as `generate`.
        """
        maker, checked = self._maker(settings)
        ids = self._chat_ids(messages, add_generation_prompt, template, variables, checked)
        return only(self._written(maker.of_ids(ids, next(seeds(checked.seed, 1)))))

    def stream_chat(
        self,
        messages: Sequence[_chat.Message],
        *,
        add_generation_prompt: bool = True,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        **settings: Unpack[GenerationSettings],
    ) -> TextStream:
        """As `chat`, giving the answer piece by piece as `stream` does."""
        maker, checked = self._maker(settings)
        ids = self._chat_ids(messages, add_generation_prompt, template, variables, checked)
        return self._stream(maker.of_ids(ids, next(seeds(checked.seed, 1)))[0])

    def chat_prompt(
        self,
        messages: Sequence[_chat.Message],
        *,
        add_generation_prompt: bool = True,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that `chat` makes of a conversation, to look at.

        Raises:
            ArgumentError: as `chat`.
        """
        return "".join(
            _chat.render_chat(
                self.tokenizer, template or self._template, messages, add_generation_prompt, variables or {}
            )
        )

    def _chat_ids(
        self,
        messages: Sequence[_chat.Message],
        add_generation_prompt: bool,
        template: str | None,
        variables: Mapping[str, Any] | None,
        settings: Settings,
    ) -> list[int]:
        pieces = _chat.render_chat(
            self.tokenizer, template or self._template, messages, add_generation_prompt, variables or {}
        )
        ids = [token_id for piece in pieces for token_id in self._reader.encode("messages", piece, "ids")]
        if not ids:
            raise ArgumentError("messages: the chat template makes nothing of them")
        return self._reader.fit("conversation", ids, settings.max_new_tokens, settings.truncate)
