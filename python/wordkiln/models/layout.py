"""The state dict of each kind: every tensor's name and shape, from the config alone. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wordkiln.models.config import ModelConfig

Shapes = dict[str, tuple[int, ...]]

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def parameter_shapes(config: ModelConfig) -> Shapes:
    """Name -> shape of every tensor in model.safetensors.

    A transformer has Hugging Face's names for Llama, a recurrent model torch.nn.LSTM's (gate order i, f, g, o) or
    torch.nn.GRU's (r, z, n) under ``model.rnn.``. ``lm_head.weight`` is absent when the embedding is tied;
    ``model.projection.weight`` [embedding_size, hidden_size] exists only when a tied recurrent model has two widths.
    """
    shapes: Shapes = {"model.embed_tokens.weight": (config.vocab_size, config.embedding_size)}
    for layer in range(config.num_hidden_layers):
        shapes |= _recurrent_layer(config, layer) if config.is_recurrent else _decoder_layer(config, layer)
    if not config.is_recurrent:
        shapes["model.norm.weight"] = (config.hidden_size,)
    if has_projection(config):
        shapes["model.projection.weight"] = (config.embedding_size, config.hidden_size)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def count_parameters(config: ModelConfig) -> int:
    """Number of weights, without building the whole dictionary: a config may ask for a thousand layers."""
    one_layer = _recurrent_layer if config.is_recurrent else _decoder_layer
    layers = _count(one_layer(config, 0)) + (config.num_hidden_layers - 1) * _count(one_layer(config, 1))
    total = layers + config.vocab_size * config.embedding_size
    total += 0 if config.is_recurrent else config.hidden_size
    total += config.embedding_size * config.hidden_size if has_projection(config) else 0
    return total + (0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size)


def has_projection(config: ModelConfig) -> bool:
    """Whether hidden states must be brought to the width of the tied embedding."""
    return config.tie_word_embeddings and config.embedding_size != config.hidden_size


def _recurrent_layer(config: ModelConfig, layer: int) -> Shapes:
    rows = GATES[config.kind] * config.hidden_size
    inputs = config.hidden_size if layer else config.embedding_size
    return {
        f"model.rnn.weight_ih_l{layer}": (rows, inputs),
        f"model.rnn.weight_hh_l{layer}": (rows, config.hidden_size),
        f"model.rnn.bias_ih_l{layer}": (rows,),
        f"model.rnn.bias_hh_l{layer}": (rows,),
    }


def _decoder_layer(config: ModelConfig, layer: int) -> Shapes:
    hidden, inner = config.hidden_size, config.intermediate_size
    keys = config.num_key_value_heads * config.head_dim
    prefix = f"model.layers.{layer}."
    return {
        prefix + "self_attn.q_proj.weight": (hidden, hidden),
        prefix + "self_attn.k_proj.weight": (keys, hidden),
        prefix + "self_attn.v_proj.weight": (keys, hidden),
        prefix + "self_attn.o_proj.weight": (hidden, hidden),
        prefix + "mlp.gate_proj.weight": (inner, hidden),
        prefix + "mlp.up_proj.weight": (inner, hidden),
        prefix + "mlp.down_proj.weight": (hidden, inner),
        prefix + "input_layernorm.weight": (hidden,),
        prefix + "post_attention_layernorm.weight": (hidden,),
    }


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
