"""The first values of the weights, per kind."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_TRANSFORMER_STD = 0.02
_EMBEDDING_RANGE = 0.1


def initialise_transformer(model: nn.Module, num_hidden_layers: int) -> None:
    """Normal(0, 0.02); the two matrices that add to the residual stream by 1 / sqrt(2 * layers) smaller.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2), section 2.3.
    Norms stay 1.
    """
    for name, weight in model.named_parameters():
        if weight.dim() < 2:
            continue
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        nn.init.normal_(
            weight, 0.0, _TRANSFORMER_STD / math.sqrt(2 * num_hidden_layers) if residual else _TRANSFORMER_STD
        )


def initialise_recurrent(model: nn.Module, hidden_size: int) -> None:
    """Uniform in +-0.1 for the embedding, +-1 / sqrt(hidden_size) for the rest, forget gates open at 1.

    Source: Merity et al. 2018, "Regularizing and Optimizing LSTM Language Models", section 5; the forget gate's bias:
    Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network Architectures", section 2.2.
    """
    bound = 1 / math.sqrt(hidden_size)
    for name, weight in model.named_parameters():
        limit = _EMBEDDING_RANGE if name.endswith("embed_tokens.weight") else bound
        nn.init.uniform_(weight, -limit, limit)
        if ".bias_" in name and weight.shape[0] == 4 * hidden_size:
            _open_forget_gate(weight, hidden_size, 1.0 if ".bias_ih_" in name else 0.0)


@torch.no_grad()
def _open_forget_gate(bias: Tensor, hidden_size: int, value: float) -> None:
    """The gates lie in torch's order i, f, g, o; the two biases of a gate add up."""
    bias[hidden_size : 2 * hidden_size] = value
