"""`LanguageModel`: a model and its tokenizer, writing text."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, overload

from wordkiln import _rust
from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks
from wordkiln.generation._row import Completion, Row, TextDecoder
from wordkiln.generation._sampler import Sampler, SamplingParams
from wordkiln.generation._stream import TextStream
from wordkiln.generation.protocol import StepModel

_DEFAULT_NEW_TOKENS = 128


class TextTokenizer(Protocol):
    """What generation needs of a tokenizer: `wordkiln.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_id(self) -> int | None: ...

    def encode(self, text: str, /) -> list[int]: ...

    def decode_stream(self) -> TextDecoder: ...


class LanguageModel:
    """A model and its tokenizer, writing text.

    Args:
        model: anything with the step protocol: a runtime model, or `wordkiln.models.CausalLM`.
        tokenizer: the tokenizer that the model was trained with.

    Attributes:
        model: see above.
        tokenizer: see above.
        end_id: the token that ends a text: the model's `eos_token_id`, else the tokenizer's end-of-document token, else
            None.

    Raises:
        ArgumentError: the tokenizer has another number of tokens than the model.
    """

    def __init__(self, model: StepModel[Any], tokenizer: TextTokenizer) -> None:
        if tokenizer.vocab_size != model.vocab_size:
            raise ArgumentError(
                f"tokenizer: has {tokenizer.vocab_size} tokens, but the model's vocab_size is {model.vocab_size}: "
                "it is not the tokenizer of this model"
            )
        self.model = model
        self.tokenizer = tokenizer
        self.end_id = tokenizer.end_id if model.eos_token_id is None else model.eos_token_id

    @overload
    def generate(  # type: ignore[overload-overlap]  # n=1 is an int as well
        self,
        prompt: str,
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_k: int = ...,
        top_p: float = ...,
        seed: int | Sequence[int] | None = ...,
        stop: str | Sequence[str] = ...,
        n: Literal[1] = ...,
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: str | list[str] | tuple[str, ...],
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_k: int = ...,
        top_p: float = ...,
        seed: int | Sequence[int] | None = ...,
        stop: str | Sequence[str] = ...,
        n: int = ...,
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: str | list[str] | tuple[str, ...],
        *,
        max_new_tokens: int = _DEFAULT_NEW_TOKENS,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | Sequence[int] | None = None,
        stop: str | Sequence[str] = (),
        n: int = 1,
    ) -> Completion | list[Completion]:
        """Continue a prompt, or several as one batch.

        Args:
            prompt: a text, or a list of P texts. An empty one starts a new document (from the end token).
            max_new_tokens: most tokens to write, 1 or more.
            temperature: logits are divided by it; 0 always takes the most probable token.
            top_k: choose among the `top_k` most probable tokens; 0: among all.
            top_p: choose among the most probable tokens that together hold this probability; 1: among all.
            seed: the random sequence of each prompt: one int for all of them (a prompt then gets the same text in
                whatever batch it stands), or P ints; None: fresh ones. Sample j > 0 of a prompt follows
                `derive_seed(seed, j)`, sample 0 the seed itself.
            stop: strings that end the text; they are not part of it.
            n: how many samples of each prompt, 1 or more.

        Returns:
            One `Completion` for one text and n = 1, else a list: sample j of prompt i is number i * n + j.

        Raises:
            ArgumentError: a value is out of its range; a prompt and its `max_new_tokens` exceed the model's
                `max_positions`; a prompt is empty and there is no end token; the model gave NaN.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            return []
        n = _checks.integer("n", n, 1)
        max_new_tokens = _checks.integer("max_new_tokens", max_new_tokens, 1)
        ids = [self._prompt_ids(text, max_new_tokens) for text in prompts]
        params = _params_of_rows(_seeds(seed, len(prompts)), n, temperature, top_k, top_p)
        stops = _checks.stop_strings(stop)
        rows = [Row(self.tokenizer.decode_stream(), stops, self.end_id, max_new_tokens) for _ in params]
        for _ in self._write(ids, rows, params):
            pass
        completions = [row.completion() for row in rows]
        return completions[0] if isinstance(prompt, str) and n == 1 else completions

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = _DEFAULT_NEW_TOKENS,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> TextStream:
        """Continue a prompt, giving the text piece by piece: `"".join(...)` of it is what `generate` returns.

        A piece holds whole characters only, and nothing that may be the beginning of a stop string. Ctrl-C ends the
        iterator behind what was written, with finish_reason "interrupted"; it does not raise.

        Args:
            prompt: as for `generate`, and so all others.
            max_new_tokens: see `generate`.
            temperature: see `generate`.
            top_k: see `generate`.
            top_p: see `generate`.
            seed: see `generate`.
            stop: see `generate`.

        Returns:
            An iterator of non-empty strings; its `finish_reason` is None until it ends.

        Raises:
            ArgumentError: as `generate`, before the first piece is asked for.
        """
        max_new_tokens = _checks.integer("max_new_tokens", max_new_tokens, 1)
        ids = self._prompt_ids(prompt, max_new_tokens)
        params = _params_of_rows(_seeds(seed, 1), 1, temperature, top_k, top_p)
        row = Row(self.tokenizer.decode_stream(), _checks.stop_strings(stop), self.end_id, max_new_tokens)
        return TextStream(row, self._write([ids], [row], params))

    def _prompt_ids(self, prompt: str, max_new_tokens: int) -> list[int]:
        if not isinstance(prompt, str):
            raise ArgumentError(f"prompt: is {type(prompt).__name__}: must be str")
        ids = self.tokenizer.encode(prompt)
        if not ids:
            if self.end_id is None:
                raise ArgumentError("prompt: is empty, and the tokenizer has no end-of-document token to start from")
            ids = [self.end_id]
        limit = self.model.max_positions
        if limit is not None and len(ids) + max_new_tokens > limit:
            raise ArgumentError(
                f"max_new_tokens={max_new_tokens}: with the prompt's {len(ids)} tokens it exceeds the model's "
                f"{limit} positions"
            )
        return ids

    def _write(self, prompts: list[list[int]], rows: list[Row], params: list[SamplingParams]) -> Iterator[str]:
        """Write `rows`, each prompt's in turn, to their ends; gives what each token shows."""
        per_prompt = len(rows) // len(prompts)
        state, logits = self.model.begin(prompts)
        if per_prompt > 1:
            # Each prompt is read once, whatever n is.
            prompt_of_row = [row // per_prompt for row in range(len(rows))]
            state, logits = self.model.select(state, prompt_of_row), logits[prompt_of_row]
        sampler = Sampler(params, self.model.vocab_size)
        while True:
            ids, logprobs = sampler.sample_with_logprobs(logits)
            for row, token_id, logprob in zip(rows, ids.tolist(), logprobs.tolist(), strict=True):
                yield row.push(token_id, logprob)
            going = [index for index, row in enumerate(rows) if row.finish_reason is None]
            if not going:
                return
            if len(going) < len(rows):
                rows = [rows[index] for index in going]
                sampler.select(going)
                state, ids = self.model.select(state, going), ids[going]
            logits = self.model.step(state, ids)


def derive_seed(seed: int, sample: int) -> int:
    """The seed that sample number `sample` of a prompt follows when `seed` was given for the prompt.

    Sample 0 follows `seed` itself; the others 64 bits of Philox4x32-10 at (seed, sample), in a stream that
    sampling does not use.

    Raises:
        ArgumentError: a number is not from 0 to 2**64 - 1.
    """
    limit = 2**64 - 1
    return _rust.derive_seed(_checks.integer("seed", seed, 0, limit), _checks.integer("sample", sample, 0, limit))


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if seed is None:
        return [secrets.randbits(64) for _ in range(count)]
    if not isinstance(seed, Sequence):
        return [seed] * count
    if len(seed) != count:
        raise ArgumentError(f"seed: {len(seed)} seeds for {count} prompts")
    return list(seed)


def _params_of_rows(seeds: list[int], n: int, temperature: float, top_k: int, top_p: float) -> list[SamplingParams]:
    return [
        SamplingParams(temperature, top_k, top_p, derive_seed(seed, sample)) for seed in seeds for sample in range(n)
    ]
