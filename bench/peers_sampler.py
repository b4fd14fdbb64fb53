"""The samplers of Hugging Face's transformers and of llama.cpp, set up for the same chains as ours."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

PENALTY_RANGE = 64


class TransformersSampler:
    """Processors and warpers of `generate`, in its order, and `torch.multinomial`.

    Args:
        settings: by our names.
        prompts: ids of each row, [B, N].
    """

    def __init__(self, settings: dict[str, Any], prompts: np.ndarray) -> None:
        import torch
        import transformers
        from transformers.generation import logits_process as process

        self.name = f"transformers {transformers.__version__}, torch {torch.__version__}"
        makers = {
            "repetition_penalty": process.RepetitionPenaltyLogitsProcessor,
            "temperature": process.TemperatureLogitsWarper,
            "top_k": process.TopKLogitsWarper,
            "top_p": process.TopPLogitsWarper,
            "min_p": process.MinPLogitsWarper,
            "typical_p": process.TypicalLogitsWarper,
        }
        self._torch = torch
        self._chain = [make(settings[name]) for name, make in makers.items() if name in settings]
        self._prompts = torch.from_numpy(prompts)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """[B, V]."""
        return self._scores(logits).softmax(-1).numpy()

    def sample(self, logits: np.ndarray) -> Any:
        """Ids [B, 1]."""
        with self._torch.inference_mode():
            return self._torch.multinomial(self._scores(logits).softmax(-1), 1)

    def _scores(self, logits: np.ndarray) -> Any:
        scores = self._torch.from_numpy(logits)
        for process in self._chain:
            scores = process(self._prompts[: len(logits)], scores)
        return scores


class LlamaSampler:
    """A chain of llama.cpp's. Its stages go by logits, so the temperature comes where it costs least for the same
    distribution: behind top-k, before top-p. The array of candidates that it wants is copied from one made before.
    """

    def __init__(self, settings: dict[str, Any], prompts: np.ndarray, vocab_size: int) -> None:
        import llama_cpp

        self.name = f"llama.cpp ({llama_cpp.__version__} of llama-cpp-python)"
        self._library = llama_cpp
        makers: dict[str, Callable[[float], Any]] = {
            "repetition_penalty": lambda value: llama_cpp.llama_sampler_init_penalties(
                vocab_size, PENALTY_RANGE, value, 0.0, 0.0
            ),
            "top_k": lambda value: llama_cpp.llama_sampler_init_top_k(value),
            "temperature": lambda value: llama_cpp.llama_sampler_init_temp(value),
            "top_p": lambda value: llama_cpp.llama_sampler_init_top_p(value, 1),
            "min_p": lambda value: llama_cpp.llama_sampler_init_min_p(value, 1),
        }
        stages = [name for name in makers if name in settings]
        self._narrowing = self._chain([makers[name](settings[name]) for name in stages], prompts)
        self._whole = self._chain(
            [*(makers[name](settings[name]) for name in stages), llama_cpp.llama_sampler_init_dist(1)], prompts
        )
        candidate = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        self._buffer = np.zeros(vocab_size, candidate)
        pointer = ctypes.cast(self._buffer.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        self._array = llama_cpp.llama_token_data_array(data=pointer, size=vocab_size, selected=-1, sorted=False)
        self._rows: list[np.ndarray] = []

    def load(self, logits: np.ndarray) -> None:
        """Make the arrays of candidates that `sample` starts from."""
        self._rows = [np.zeros_like(self._buffer) for _ in logits]
        for row, values in zip(self._rows, logits, strict=True):
            row["id"], row["logit"] = np.arange(len(values)), values

    def probabilities(self) -> np.ndarray:
        """[B, V], of the rows loaded."""
        result = np.zeros((len(self._rows), len(self._buffer)))
        for row, values in enumerate(self._rows):
            self._apply(self._narrowing, values)
            left = self._buffer[: self._array.size]
            weights = np.exp(left["logit"].astype(np.float64) - left["logit"].max())
            result[row, left["id"]] = weights / weights.sum()
        return result

    def sample(self) -> list[int]:
        """Ids [B], of the rows loaded."""
        ids = []
        for values in self._rows:
            self._apply(self._whole, values)
            ids.append(self._buffer["id"][self._array.selected])
        return ids

    def _apply(self, chain: Any, values: np.ndarray) -> None:
        ctypes.memmove(self._buffer.ctypes.data, values.ctypes.data, values.nbytes)
        self._array.size, self._array.sorted, self._array.selected = len(values), False, -1
        self._library.llama_sampler_apply(chain, ctypes.byref(self._array))

    def _chain(self, stages: list[Any], prompts: np.ndarray) -> Any:
        chain = self._library.llama_sampler_chain_init(self._library.llama_sampler_chain_default_params())
        for stage in stages:
            self._library.llama_sampler_chain_add(chain, stage)
        for token in prompts[0, -PENALTY_RANGE:].tolist():
            self._library.llama_sampler_accept(chain, token)
        return chain
