"""The step protocol on a torch model: numpy at the border, no gradients, no dropout."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wordkiln._ids import checked_ids, checked_selection
from wordkiln.errors import ArgumentError
from wordkiln.models.state import KeyValueCache, State, batch_size, join_rows, select_rows

if TYPE_CHECKING:
    from wordkiln.models.causal_lm import CausalLM

Logits = np.ndarray[Any, np.dtype[np.float32]]
# Positions of a text that `score` reads at once, and logits it holds at once: they bound its memory.
_CHUNK = 512
_LOGITS = 1 << 24


class StepState:
    """A batch of rows in the middle of their texts. Opaque: give it to `step`, `select` and `join`."""

    def __init__(self, inner: State) -> None:
        self._inner = inner

    def __len__(self) -> int:
        """Number of rows."""
        return batch_size(self._inner)


def begin(model: CausalLM, prompts: Sequence[Sequence[int]]) -> tuple[StepState, Logits]:
    """See `CausalLM.begin`."""
    if not isinstance(prompts, Collection) or not len(prompts):
        raise ArgumentError("prompts: must be a sequence of at least one sequence of ids")
    ids, lengths = _padded([_checked_prompt(model, row, prompt) for row, prompt in enumerate(prompts)])
    with _inference(model):
        hidden, state = model.model.prefill(_to_device(model, ids), lengths)
        return StepState(state), _logits(model, hidden).cpu().numpy()


def step(model: CausalLM, state: StepState, ids: Any) -> Logits:
    """See `CausalLM.step`."""
    array = checked_ids("ids", ids, model.vocab_size)
    if len(array) != len(state):
        raise ArgumentError(f"ids: {len(array)} ids for {len(state)} rows")
    if isinstance(state._inner, KeyValueCache) and max(state._inner.lengths) == model.max_positions:
        row = state._inner.lengths.index(max(state._inner.lengths))
        raise ArgumentError(f"row {row}: is max_position_embeddings={model.max_positions} ids long and cannot go on")
    with _inference(model):
        hidden, state._inner = model.model(_to_device(model, array[:, None]), state._inner, in_place=True)
        return _logits(model, hidden[:, -1]).cpu().numpy()


def select(state: StepState, rows: Sequence[int]) -> StepState:
    """See `CausalLM.select`."""
    chosen = checked_selection(rows, len(state))
    with torch.inference_mode():
        return StepState(select_rows(state._inner, chosen))


def join(states: Sequence[StepState]) -> StepState:
    """See `CausalLM.join`."""
    if not isinstance(states, Collection) or not all(isinstance(state, StepState) for state in states) or not states:
        raise ArgumentError("states: must be a sequence of at least one state that begin, select or join gave")
    with torch.inference_mode():
        return StepState(join_rows([state._inner for state in states]))


def score(model: CausalLM, rows: Sequence[Sequence[int]]) -> list[Logits]:
    """See `CausalLM.score`."""
    if not isinstance(rows, Collection) or not len(rows):
        raise ArgumentError("rows: must be a sequence of at least one sequence of ids")
    checked = [_checked_prompt(model, row, ids, "rows") for row, ids in enumerate(rows)]
    ids, lengths = _padded(checked)
    scores = np.empty((len(rows), ids.shape[1] - 1), np.float32)
    with _inference(model):
        on_device = _to_device(model, ids)
        state: State | None = None
        # The last id is followed by nothing that could be scored.
        for start in range(0, ids.shape[1] - 1, _CHUNK):
            stop = min(start + _CHUNK, ids.shape[1] - 1)
            hidden, state = model.model(on_device[:, start:stop], state, in_place=True)
            targets = on_device[:, start + 1 : stop + 1]
            scores[:, start:stop] = _log_probabilities(model, hidden, targets).cpu().numpy()
    return [row[: length - 1] for row, length in zip(scores, lengths, strict=True)]


def _log_probabilities(model: CausalLM, hidden: Tensor, targets: Tensor) -> Tensor:
    """Of `targets` [B, T] under the logits of `hidden` [B, T, E]: float32 [B, T]."""
    at_once = max(1, _LOGITS // model.vocab_size)
    parts = []
    for some, ids in zip(
        torch.split(hidden.flatten(0, 1), at_once), torch.split(targets.flatten(), at_once), strict=True
    ):
        logits = _logits(model, some)
        parts.append(logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1))
    return torch.cat(parts).reshape(targets.shape)


def _padded(
    rows: Sequence[np.ndarray[Any, np.dtype[np.int64]]],
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[int]]:
    """Rows of ids filled up on the right, and their lengths."""
    lengths = [len(row) for row in rows]
    ids = np.zeros((len(rows), max(lengths)), np.int64)
    for row, own in enumerate(rows):
        ids[row, : len(own)] = own
    return ids, lengths


def _checked_prompt(
    model: CausalLM, row: int, prompt: Sequence[int], name: str = "prompts"
) -> np.ndarray[Any, np.dtype[np.int64]]:
    ids = checked_ids(f"{name}[{row}]", prompt, model.vocab_size)
    if model.max_positions is not None and len(ids) > model.max_positions:
        raise ArgumentError(
            f"{name}[{row}]: {len(ids)} ids: must be at most max_position_embeddings={model.max_positions}"
        )
    return ids


def _to_device(model: CausalLM, ids: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
    return torch.from_numpy(ids).to(model.output_weight.device)


def _logits(model: CausalLM, hidden: Tensor) -> Tensor:
    """Of `hidden` [N, E]: float32 [N, V], -inf where an id is no token."""
    logits = torch.nn.functional.linear(hidden, model.output_weight).float()
    return logits if model.unused_ids is None else logits.index_fill_(1, model.unused_ids, -torch.inf)


@contextlib.contextmanager
def _inference(model: CausalLM) -> Iterator[None]:
    """Without gradients and dropout; a model that is being trained is put back into training mode."""
    training = model.training
    if training:
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()
