"""`CausalLM`: a language model of any kind: forward pass, step protocol, save and load."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wordkiln._ids import checked_unused
from wordkiln.errors import ArgumentError
from wordkiln.models import pretrained, stepping
from wordkiln.models.config import ModelConfig
from wordkiln.models.decoder import Decoder
from wordkiln.models.initialisation import initialise_recurrent, initialise_transformer
from wordkiln.models.rnn import Recurrent
from wordkiln.models.state import State, batch_size


class CausalLM(nn.Module):
    """A model that gives, for every position, the logits of the next id.

    Sizes in the docstrings: B rows, T ids, V vocab_size, E width of the output layer (hidden_size, or embedding_size
    where the output layer is tied to an embedding of another width).

    Args:
        config: the shape.

    Attributes:
        unused_ids: int64 [N], or None: ids that are no tokens; see `from_pretrained`.
    """

    unused_ids: Tensor | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model: Decoder | Recurrent = Recurrent(config) if config.is_recurrent else Decoder(config)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        if config.is_recurrent:
            initialise_recurrent(self, config.hidden_size, tied=config.tie_word_embeddings)
        else:
            initialise_transformer(self, config.hidden_size, config.num_hidden_layers)
        # A buffer, to be where the weights are; no part of a checkpoint.
        self.register_buffer("unused_ids", None, persistent=False)

    @property
    def output_weight(self) -> Tensor:
        """[V, E]: `logits = hidden @ output_weight.T`; the embedding's own weight where they are tied."""
        weight: Tensor = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return weight

    def forward(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits after every id, and the state after the last one.

        Args:
            ids: int64 or int32 [B, T], T at least 1.
            state: what the last call gave, to go on from there; it stays as it is. Default: the beginning of a text.

        Returns:
            logits [B, T, V] in the model's dtype, and the state: a tuple of tensors [layers, B, hidden_size] for
            recurrent kinds ((h, c) or (h,)), a `KeyValueCache` for a transformer. `detach_state` cuts its history.

        Raises:
            ArgumentError: ids or state do not fit the model, or a row would pass max_position_embeddings.
        """
        hidden, state = self.hidden(ids, state)
        return nn.functional.linear(hidden, self.output_weight), state

    def hidden(self, ids: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `forward`, but the last hidden states [B, T, E] in the place of logits, for a fused loss."""
        self._check(ids, state)
        hidden, state = self.model(ids, state)
        return hidden, state

    def num_parameters(self, trainable_only: bool = False) -> int:
        """Number of weights, a tied one once; with `trainable_only` only those that require a gradient."""
        return sum(weight.numel() for weight in self.parameters() if weight.requires_grad or not trainable_only)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int | None:
        """Most ids in one row, or None where there is no limit."""
        return self.config.max_position_embeddings

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a document, or None."""
        return self.config.eos_token_id

    def begin(
        self, prompts: Sequence[Sequence[int]]
    ) -> tuple[stepping.StepState, np.ndarray[Any, np.dtype[np.float32]]]:
        """Read prompts of any lengths, without dropout and without gradients.

        Args:
            prompts: at least one; each a non-empty sequence of ids.

        Returns:
            The state of the batch, and float32 logits [B, V] after each row's last id.

        Raises:
            ArgumentError: no prompt, an empty one, an id outside the vocabulary, or one longer than `max_positions`.
        """
        return stepping.begin(self, prompts)

    def step(self, state: stepping.StepState, ids: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Add one id to each row; `state` is advanced in place.

        Args:
            state: from `begin` or `select`.
            ids: integers [B].

        Returns:
            float32 logits [B, V].

        Raises:
            ArgumentError: ids do not fit, or a row is at `max_positions` already; `state` is unchanged then.
        """
        return stepping.step(self, state, ids)

    def select(self, state: stepping.StepState, rows: Sequence[int]) -> stepping.StepState:
        """A state that holds these rows of `state`, in this order; rows may repeat or be dropped. `state` stays valid.

        Raises:
            ArgumentError: no row is named, or one that `state` does not have.
        """
        return stepping.select(state, rows)

    def join(self, states: Sequence[stepping.StepState]) -> stepping.StepState:
        """One state of the rows of all, in this order. The states given may not be used any more.

        Raises:
            ArgumentError: there is no state.
        """
        return stepping.join(states)

    def score(self, rows: Sequence[Sequence[int]]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """How probable texts are, without dropout and without gradients.

        Args:
            rows: at least one; each a non-empty sequence of ids.

        Returns:
            For each row of n ids float32 natural log-probabilities [n - 1] of ids 1 to n - 1, each after those before.

        Raises:
            ArgumentError: as `begin`.
        """
        return stepping.score(self, rows)

    def save_pretrained(self, directory: str | os.PathLike[str], tokenizer: pretrained.Saves | None = None) -> None:
        """Write a checkpoint directory, whole or not at all; one that is there already is replaced.

        It holds config.json, model.safetensors, generation_config.json and, where a tokenizer is given, tokenizer.json
        and tokenizer_config.json. A transformer's opens in Hugging Face's `AutoModelForCausalLM` and `AutoTokenizer`.

        Args:
            directory: where; anything but a checkpoint there is refused rather than replaced.
            tokenizer: a `wordkiln.Tokenizer`.

        Raises:
            PathError: it cannot be written, or other files are there.
        """
        pretrained.save(self, directory, tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        device: str | torch.device = "cpu",
        unused_ids: Collection[int] = (),
    ) -> CausalLM:
        """Read a checkpoint directory, ours or Hugging Face's Llama; weights become float32. The model is in eval mode.

        Args:
            directory: with config.json and model.safetensors.
            device: where the weights go. Default "cpu".
            unused_ids: those that are no tokens, of an embedding with more rows than there are tokens. In the step
                protocol and in `score` their logits are -inf, and probabilities those among the others, as
                `runtime.DecoderModel` has them; `forward` and `hidden`, which losses are of, know nothing of it.
                Default none.

        Raises:
            PathError: a file is missing or cannot be read.
            FormatError: the config is not one of ours; the weights are not exactly the config's, or not finite.
            ArgumentError: an unused id is none of the model's, or all are.
        """
        config = ModelConfig.load(Path(directory))
        unused = checked_unused(unused_ids, config.vocab_size)
        weights = pretrained.load_weights(Path(directory), config)
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        model.unused_ids = torch.from_numpy(unused) if len(unused) else None
        return model.to(device).eval()

    def _check(self, ids: Tensor, state: State | None) -> None:
        if not isinstance(ids, Tensor) or ids.dtype not in (torch.int64, torch.int32):
            got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
            raise ArgumentError(f"ids: must be an int64 or int32 tensor, not {got}")
        if ids.dim() != 2 or ids.numel() == 0:
            raise ArgumentError(f"ids: shape {list(ids.shape)} must be [B, T] with B and T at least 1")
        if state is not None and batch_size(state) != ids.shape[0]:
            raise ArgumentError(f"state: has {batch_size(state)} rows, but ids has {ids.shape[0]}")
        if torch.compiler.is_compiling():
            return  # a look at the values would break the graph; the lookup itself refuses an id that is none
        # On other devices this look would wait for everything queued before it.
        if ids.device.type == "cpu" and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ArgumentError(f"ids: from {int(ids.min())} to {int(ids.max())}: must be 0 to {self.vocab_size - 1}")
