"""Reading texts instead of writing them: how probable they are, and what may come next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks, _scores
from wordkiln.generation._base import ModelBase
from wordkiln.generation._scores import NextToken, TextScore
from wordkiln.generation._settings import Settings, SpecialTokens


class Scoring(ModelBase):
    """See `LanguageModel`."""

    @overload
    def score(  # type: ignore[overload-overlap]  # a str is a sequence of them as well
        self,
        texts: str,
        *,
        context: str | None = ...,
        window: int | None = ...,
        stride: int | None = ...,
        special_tokens: SpecialTokens = ...,
    ) -> TextScore: ...

    @overload
    def score(
        self,
        texts: Sequence[str],
        *,
        context: str | Sequence[str] | None = ...,
        window: int | None = ...,
        stride: int | None = ...,
        special_tokens: SpecialTokens = ...,
    ) -> list[TextScore]: ...

    def score(
        self,
        texts: str | Sequence[str],
        *,
        context: str | Sequence[str] | None = None,
        window: int | None = None,
        stride: int | None = None,
        special_tokens: SpecialTokens = "error",
    ) -> TextScore | list[TextScore]:
        """How probable texts are.

        Args:
            texts: one, or several.
            context: what stands before every text, or before each; its tokens are not scored. Default: a document
                begins with the text (its first token is scored after the end token of the document before, where the
                model has one).
            window: most tokens that the model reads at once, context included. Default: its `max_positions`.
            stride: score a text that is longer than `window` in windows that begin so many tokens apart: of each, the
                tokens that no window before had; a smaller one gives tokens more to look back at and takes longer.
                Default None: such a text is an error.
            special_tokens: see `GenerationSettings`.

        Returns:
            A `TextScore` for one text, else a list: log-probabilities, perplexity, bits per byte.

        Raises:
            ArgumentError: an argument is out of its range, or a text is longer than the window and has no `stride`.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        before = self._contexts(context, len(listed), special_tokens)
        own = [self._reader.encode(f"texts[{place}]", text, special_tokens) for place, text in enumerate(listed)]
        rows = [[*start, *ids] for start, ids in zip(before, own, strict=True)]
        size, stride = _scores.check_window(self.model.max_positions, window, stride, max(map(len, rows), default=0))
        logprobs = _scores.log_probabilities(self.model, rows, [len(start) for start in before], size, stride)
        scores = [self._text_score(text, ids, found) for text, ids, found in zip(listed, own, logprobs, strict=True)]
        return scores[0] if isinstance(texts, str) else scores

    def perplexity(self, text: str, *, window: int | None = None, stride: int | None = None) -> float:
        """The exponential of the mean negative log-probability of a text's tokens, however long it is.

        Args:
            text: what to read.
            window: as for `score`; default the model's `max_positions`, or the whole text where there is no limit.
            stride: as for `score`; default half the window.

        Raises:
            ArgumentError: as `score`.
        """
        size = self.model.max_positions if window is None else window
        if stride is None and isinstance(size, int):
            stride = max(1, size // 2)
        return self.score(text, window=window, stride=stride).perplexity

    def next_tokens(self, prompt: str, k: int = 10, *, special_tokens: SpecialTokens = "error") -> list[NextToken]:
        """The `k` tokens that the model finds most probable behind a prompt, best first.

        Raises:
            ArgumentError: `k` is not 1 to the vocabulary's size; the prompt is as `generate` refuses it.
        """
        k = _checks.integer("k", k, 1, self.model.vocab_size)
        settings = Settings.check({"special_tokens": special_tokens}, self.model.vocab_size)
        _, logits = self.model.begin([self._reader.read("prompt", prompt, 0, settings)])
        return [
            NextToken(self._shown(token_id), token_id, math.exp(logprob), logprob)
            for token_id, logprob in _scores.most_probable(logits[0], k)
        ]

    def _contexts(
        self, context: str | Sequence[str] | None, count: int, special_tokens: SpecialTokens
    ) -> list[list[int]]:
        """The ids before each of `count` texts."""
        if context is None:
            return [self._reader.start()] * count
        contexts = [context] * count if isinstance(context, str) else list(context)
        if len(contexts) != count:
            raise ArgumentError(f"context: {len(contexts)} for {count} texts: must be one, or one for each")
        ids = [self._reader.encode(f"context[{place}]", text, special_tokens) for place, text in enumerate(contexts)]
        return [[*self._reader.beginning, *before] if before else self._reader.start() for before in ids]

    def _text_score(self, text: str, ids: list[int], logprobs: list[float]) -> TextScore:
        scored = ids[len(ids) - len(logprobs) :]
        # Nothing stands before the first token of some texts: its bytes do not count either.
        unscored = sum(len(self._shown(token_id).encode()) for token_id in ids[: len(ids) - len(logprobs)])
        return TextScore(scored, logprobs, len(text.encode("utf-8", "surrogatepass")) - unscored)

    def _shown(self, token_id: int) -> str:
        decoder = self.tokenizer.decode_stream()
        return decoder.push(token_id) + decoder.finish()
