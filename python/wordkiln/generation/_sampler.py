"""The batched sampler: settings are checked here, the work is done by `rust/decode`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln import _rust
from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks
from wordkiln.generation._params import SamplingParams

__all__ = ["Sampler", "SamplingParams"]

_LARGEST_ID = 2**31 - 1

Prompts = Sequence["Sequence[int] | NDArray[Any]"]


class Sampler:
    """Chooses a token for each row of a batch.

    Row r uses `params[r]`, its own prompt and text, and the random numbers at (its seed, the number of tokens it has
    chosen): what a row gets depends neither on the other rows nor on the number of threads.

    The methods that sample take:
        logits: [B, V], C-contiguous, read in place: float32; float16; bfloat16 (an array of ml_dtypes.bfloat16, or its
            bits as uint16, as `tensor.view(torch.uint16).numpy()` gives them). -inf masks a token.
        masks: None, or uint32 [B, ceil(V / 32)], C-contiguous: bit i % 32 of word i / 32 set: token i is allowed.

    Args:
        params: one `SamplingParams` per row.
        vocab_size: V, the number of logits of a row, 1 to 2**31 - 1.
        prompts: the ids of each row's prompt, for the penalties that look at it; None, the default: no row has any.

    Raises:
        ArgumentError: `params` holds something else, an id of `params` or `prompts` is not below `vocab_size`, or
            `vocab_size` is out of its range.
    """

    def __init__(self, params: Sequence[SamplingParams], vocab_size: int, prompts: Prompts | None = None) -> None:
        self._vocab_size = _checks.integer("vocab_size", vocab_size, 1, _LARGEST_ID)
        self._native = _rust.Sampler([], self._vocab_size)
        self._rows = 0
        self.extend(params, prompts)

    def __len__(self) -> int:
        """The number of rows, B."""
        return self._rows

    @property
    def steps(self) -> list[int]:
        """How many tokens each row has chosen."""
        return self._native.steps()

    def sample(self, logits: NDArray[Any], masks: NDArray[np.uint32] | None = None) -> NDArray[np.int32]:
        """Choose a token for each row, and go on to the next step.

        Returns:
            int32 ids [B].

        Raises:
            ArgumentError: `logits` or `masks` is something else than stands above; or a row cannot be sampled: it holds
                NaN or +inf, or nothing but -inf, or its mask and its banned tokens leave nothing, or its mask forbids
                a forced token. The first such row is named and no row goes on: the same call with that row mended, or
                without it after `select`, gives the others what they would have had; or see `sample_partial`.
        """
        return self._native.sample(logits, masks)

    def sample_with_logprobs(
        self, logits: NDArray[Any], masks: NDArray[np.uint32] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """As `sample`; also each token's natural log-probability under the logits as given.

        Returns:
            int32 ids [B] and float32 log-probabilities [B], which know no setting and no mask.

        Raises:
            ArgumentError: as `sample`.
        """
        return self._native.sample_with_logprobs(logits, masks)

    def sample_partial(
        self, logits: NDArray[Any], masks: NDArray[np.uint32] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], dict[int, ArgumentError]]:
        """As `sample_with_logprobs`, but a row that cannot be sampled stays where it is, and the others go on.

        Returns:
            int32 ids [B] and float32 log-probabilities [B], -1 and NaN for rows that stayed; what was wrong with these,
            by row.

        Raises:
            ArgumentError: `logits` or `masks` is something else than stands above.
        """
        ids, logprobs, faults = self._native.sample_partial(logits, masks)
        return ids, logprobs, {row: ArgumentError(message) for row, message in faults}

    def top_logprobs(self) -> list[list[tuple[int, float]]]:
        """For each row the most probable tokens of the logits it was last given, with their natural log-probabilities
        under these: as many as its `SamplingParams.logprobs` asks for, the most probable first, none with -inf.
        """
        return self._native.top()

    def add_prompt(self, row: int, ids: Sequence[int] | NDArray[Any]) -> None:
        """Let the penalties of `row` know ids of its prompt, behind those it knows already.

        Raises:
            ArgumentError: the row does not exist, or an id is not from 0 to V - 1; then nothing changes.
        """
        row = _checks.integer("row", row, 0, self._rows - 1)
        self._native.add_prompt(row, self._prompt("ids", ids))

    def extend(self, params: Sequence[SamplingParams], prompts: Prompts | None = None) -> None:
        """Add rows behind those there are, at step 0.

        Args:
            params: as for the class.
            prompts: as for the class, of the new rows.

        Raises:
            ArgumentError: as the class; then nothing changes.
        """
        for row, row_params in enumerate(params):
            if not isinstance(row_params, SamplingParams):
                raise ArgumentError(f"params[{row}]: is {type(row_params).__name__}: must be SamplingParams")
        if prompts is not None and len(prompts) != len(params):
            raise ArgumentError(f"prompts: {len(prompts)} of them: must be {len(params)}, one for each of params")
        checked = [self._prompt(f"prompts[{row}]", ids) for row, ids in enumerate(prompts or ())]
        self._native.extend(list(params))
        for row, ids in enumerate(checked, self._rows):
            self._native.add_prompt(row, ids)
        self._rows += len(params)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows alone, in this order, each at its step; a row may be named twice.

        Raises:
            ArgumentError: a row does not exist; then nothing changes.
        """
        chosen = [_checks.integer("rows", row, 0, self._rows - 1) for row in rows]
        self._native.select(chosen)
        self._rows = len(chosen)

    def _prompt(self, name: str, ids: Sequence[int] | NDArray[Any]) -> NDArray[np.uint32]:
        """`ids` as the native sampler takes them."""
        try:
            array = np.asarray(ids)
        except (ValueError, TypeError, OverflowError):
            array = np.empty(0, object)
        if array.size == 0 and array.dtype != object and array.ndim == 1:
            return np.empty(0, np.uint32)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise ArgumentError(f"{name}: must be integers in one dimension")
        wrong = (array < 0) | (array >= self._vocab_size)
        if wrong.any():
            index = int(wrong.argmax())
            raise ArgumentError(f"{name}[{index}]={array[index]}: must be an id from 0 to {self._vocab_size - 1}")
        return np.ascontiguousarray(array, np.uint32)
