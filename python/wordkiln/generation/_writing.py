"""Continuing prompts: one, several, thousands, or piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, Unpack, overload

from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks
from wordkiln.generation._base import ModelBase, only
from wordkiln.generation._batch import BatchRun, rows_of
from wordkiln.generation._progress import Progress, reporter
from wordkiln.generation._prompt import seeds
from wordkiln.generation._row import Completion, Row
from wordkiln.generation._settings import GenerationSettings
from wordkiln.generation._stream import TextStream

_MOST_ROWS = 1 << 16


class Writing(ModelBase):
    """See `LanguageModel`."""

    @overload
    def generate(  # type: ignore[overload-overlap]  # n=1 is an int as well
        self, prompt: str, *, n: Literal[1] = ..., **settings: Unpack[GenerationSettings]
    ) -> Completion: ...

    @overload
    def generate(
        self, prompt: str | Sequence[str], *, n: int = ..., **settings: Unpack[GenerationSettings]
    ) -> list[Completion]: ...

    def generate(
        self, prompt: str | Sequence[str], *, n: int = 1, **settings: Unpack[GenerationSettings]
    ) -> Completion | list[Completion]:
        """Continue a prompt, or several as one batch (`batch` takes any number).

        Args:
            prompt: a text, or a list of P texts. An empty one starts a new document.
            n: how many samples of each prompt, 1 or more.
            settings: max_new_tokens, temperature, top_k, top_p, seed, stop and all others of `GenerationSettings`.

        Returns:
            One `Completion` for one text and n = 1, else a list: sample j of prompt i is number i * n + j.

        Raises:
            ArgumentError: a setting is unknown or out of its range; a prompt and its `max_new_tokens` exceed the
                model's positions; a prompt is empty and there is no end token; the one text that was asked for could
                not go on (the model gave NaN; one of several has the finish_reason "error").
            Interrupted: Ctrl-C; what was written is in its `completions`.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        n = _checks.integer("n", n, 1, _MOST_ROWS)
        maker, checked = self._maker(settings)
        rows: list[Row] = []
        for place, (text, seed) in enumerate(zip(texts, seeds(checked.seed, len(texts)), strict=False)):
            rows += maker.of_text(text, seed, n, "prompt" if isinstance(prompt, str) else f"prompt[{place}]")
        completions = self._written(rows)
        return only(completions) if isinstance(prompt, str) and n == 1 else completions

    def stream(self, prompt: str, **settings: Unpack[GenerationSettings]) -> TextStream:
        """Continue a prompt, giving the text piece by piece: `"".join(...)` of it is what `generate` returns.

        A piece holds whole characters only, and nothing that may be the beginning of a stop string. Ctrl-C ends the
        iterator behind what was written, with finish_reason "interrupted"; it does not raise.

        Args:
            prompt: as for `generate`.
            settings: as for `generate`; `seed` is one int or None.

        Returns:
            An iterator of non-empty strings; its `finish_reason` is None until it ends, then it has a `completion`.

        Raises:
            ArgumentError: as `generate`, before the first piece is asked for.
        """
        maker, checked = self._maker(settings)
        return self._stream(maker.of_text(prompt, next(seeds(checked.seed, 1)))[0])

    def batch(
        self,
        prompts: Iterable[str],
        *,
        n: int = 1,
        max_batch_size: int = 16,
        progress: Progress = False,
        **settings: Unpack[GenerationSettings],
    ) -> list[Completion]:
        """Continue any number of prompts. As texts end, others take their places in the model's batch.

        A prompt gets the text that `generate` gives it by itself (docs/generation.md: up to float rounding).

        Args:
            prompts: texts.
            n: how many samples of each prompt, 1 to `max_batch_size`.
            max_batch_size: most texts that are written at the same time.
            progress: True: a bar on the terminal; or a function that takes (texts that have ended, how many there will
                be or None, tokens written).
            settings: as for `generate`.

        Returns:
            Sample j of prompt i is number i * n + j. One that could not be written (a prompt that is too long, NaN from
            the model) has the finish_reason "error"; the others go on.

        Raises:
            ArgumentError: a setting is unknown or out of its range.
            Interrupted: Ctrl-C; `completions` has the texts that had been begun.
        """
        total = len(prompts) * n if isinstance(prompts, Sequence) else None
        with reporter(progress, total) as report:
            return self._run(prompts, n, max_batch_size, settings).all(report)

    def iter_batch(
        self,
        prompts: Iterable[str],
        *,
        n: int = 1,
        max_batch_size: int = 16,
        progress: Progress = False,
        **settings: Unpack[GenerationSettings],
    ) -> Iterator[Completion]:
        """As `batch`, giving each completion, in order, as soon as it is there; `prompts` are read as they are needed.

        Raises:
            ArgumentError: as `batch`.
            Interrupted: Ctrl-C; `completions` has the texts that had been begun and have not been given.
        """
        total = len(prompts) * n if isinstance(prompts, Sequence) else None
        run = self._run(prompts, n, max_batch_size, settings)

        def completions() -> Iterator[Completion]:
            with reporter(progress, total) as report:
                yield from run.completions(report)

        return completions()

    def _run(self, prompts: Iterable[str], n: int, max_batch_size: int, settings: GenerationSettings) -> BatchRun:
        if isinstance(prompts, (str, bytes)):
            raise ArgumentError("prompts: is one text: must be several, as in [text]")
        max_batch_size = _checks.integer("max_batch_size", max_batch_size, 1, _MOST_ROWS)
        n = _checks.integer("n", n, 1, max_batch_size)
        maker, checked = self._maker(settings)
        count = len(prompts) if isinstance(prompts, Sequence) else None
        return BatchRun(self.model, rows_of(maker, prompts, seeds(checked.seed, count), n), max_batch_size)
