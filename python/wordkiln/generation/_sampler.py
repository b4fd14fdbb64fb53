"""The batched sampler: settings are checked here, the work is done by `rust/decode`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordkiln import _rust
from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks

_LARGEST_SEED = 2**64 - 1
_LARGEST_ID = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one row are chosen. The stages apply in this order (docs/sampling.md defines each).

    Attributes:
        temperature: logits are divided by it; 0 takes the highest logit (of equal ones the lowest id) and nothing is
            drawn. Default 1.0.
        top_k: keep the `top_k` most probable tokens; 0, the default, keeps all.
        top_p: keep the most probable tokens that together hold this probability, 0 to 1; 1.0, the default, keeps all,
            0 only the first. (Holtzman et al. 2020, "The curious case of neural text degeneration", section 3.1.)
        seed: which random sequence the row follows, 0 (the default) to 2**64 - 1.

    Raises:
        ArgumentError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checked = {
            "temperature": _checks.real("temperature", self.temperature, 0.0),
            "top_k": _checks.integer("top_k", self.top_k, 0, _LARGEST_ID),
            "top_p": _checks.real("top_p", self.top_p, 0.0, 1.0),
            "seed": _checks.integer("seed", self.seed, 0, _LARGEST_SEED),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


class Sampler:
    """Chooses a token for each row of a batch.

    Row r uses `params[r]` and the random number at (its seed, the number of tokens it has chosen): what a row gets
    depends neither on the other rows nor on the number of threads.

    Args:
        params: one `SamplingParams` per row.
        vocab_size: V, the number of logits of a row, 1 to 2**31 - 1.

    Raises:
        ArgumentError: `params` holds something else, or `vocab_size` is out of its range.
    """

    def __init__(self, params: Sequence[SamplingParams], vocab_size: int) -> None:
        for row, row_params in enumerate(params):
            if not isinstance(row_params, SamplingParams):
                raise ArgumentError(f"params[{row}]: is {type(row_params).__name__}: must be SamplingParams")
        self._vocab_size = _checks.integer("vocab_size", vocab_size, 1, _LARGEST_ID)
        self._rows = len(params)
        self._native = _rust.Sampler([dataclasses.astuple(row_params) for row_params in params], self._vocab_size)

    def __len__(self) -> int:
        """The number of rows, B."""
        return self._rows

    @property
    def steps(self) -> list[int]:
        """How many tokens each row has chosen."""
        return self._native.steps()

    def sample(self, logits: NDArray[np.float32]) -> NDArray[np.int32]:
        """Choose a token for each row, and go on to the next step.

        Args:
            logits: float32 [B, V], C-contiguous; read in place. -inf masks a token.

        Returns:
            int32 ids [B].

        Raises:
            ArgumentError: `logits` is something else, or a row holds NaN or +inf, or nothing but -inf. Then no row goes
                on, and a call with better logits gives what this one would have.
        """
        return self._native.sample(self._checked(logits), False)[0]

    def sample_with_logprobs(self, logits: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """As `sample`; also each token's natural log-probability under the logits as given.

        Returns:
            int32 ids [B] and float32 log-probabilities [B], which know neither temperature nor top_k nor top_p.

        Raises:
            ArgumentError: as `sample`.
        """
        return self._native.sample(self._checked(logits), True)

    def select(self, rows: Sequence[int]) -> None:
        """Keep these rows alone, in this order, each at its step; a row may be named twice.

        Raises:
            ArgumentError: a row does not exist; then nothing changes.
        """
        chosen = [_checks.integer("rows", row, 0, self._rows - 1) for row in rows]
        self._native.select(chosen)
        self._rows = len(chosen)

    def _checked(self, logits: Any) -> NDArray[np.float32]:
        if not isinstance(logits, np.ndarray) or logits.dtype != np.float32:
            got = logits.dtype if isinstance(logits, np.ndarray) else type(logits).__name__
            raise ArgumentError(f"logits: is {got}: must be a numpy array of float32")
        if logits.shape != (self._rows, self._vocab_size):
            raise ArgumentError(f"logits: shape {list(logits.shape)}: must be [{self._rows}, {self._vocab_size}]")
        if not (logits.flags.c_contiguous and logits.flags.aligned):
            raise ArgumentError("logits: must be C-contiguous and aligned, as numpy.ascontiguousarray makes them")
        return logits
