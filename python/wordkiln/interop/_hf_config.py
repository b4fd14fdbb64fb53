"""config.json of Hugging Face's decoders -> `Architecture` and where their tensors lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from wordkiln.errors import ArgumentError, FormatError
from wordkiln.interop._fields import LIMITS, Fields
from wordkiln.interop._rope import Rope, rope
from wordkiln.models import _checks
from wordkiln.runtime.architecture import Architecture

Activation = Literal["silu", "gelu", "gelu_tanh"]

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Keys that say nothing about the logits of a model in evaluation mode; some hold what Hugging Face's generate takes.
_DESCRIBING = frozenset(
    {
        "_attn_implementation", "_commit_hash", "_name_or_path", "architectures", "attention_dropout", "attn_pdrop",
        "auto_map", "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "chunk_size_feed_forward",
        "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dropout", "dtype",
        "early_stopping", "embd_pdrop", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
        "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_range",
        "is_decoder", "is_llama_config", "label2id", "length_penalty", "max_length", "min_length", "model_type",
        "n_ctx", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences",
        "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "prefix", "pretraining_tp",
        "problem_type", "remove_invalid_values", "repetition_penalty", "reorder_and_upcast_attn", "resid_pdrop",
        "return_dict", "return_dict_in_generate", "sep_token_id", "summary_activation", "summary_first_dropout",
        "summary_proj_to_labels", "summary_type", "summary_use_proj", "suppress_tokens", "task_specific_params",
        "temperature", "tf_legacy_loss", "tokenizer_class", "tokenizer_fingerprint", "top_k", "top_p", "torch_dtype",
        "torchscript", "transformers.js_config", "transformers_version", "typical_p", "unsloth_fixed",
        "unsloth_version", "use_bfloat16", "use_cache",
    }
)  # fmt: skip
# Keys that change the logits, with the only values that are computed.
_FIXED: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "partial_rotary_factor": (1, 1.0),
    "pruned_heads": ({},),
    "rope_interleaved": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "use_mrope": (False,),
}


@dataclasses.dataclass(frozen=True)
class Description:
    """A config.json, understood.

    Attributes:
        architecture: the shape.
        kind: model_type.
        biases: which linears have a bias.
        tied: whether the embedding serves as the head.
        attention_factor: see `Rope`.
    """

    architecture: Architecture
    kind: str
    biases: frozenset[str] = frozenset()
    tied: bool = False
    attention_factor: float = 1.0


def describe(values: Mapping[str, Any]) -> Description:
    """The decoder that a config.json stands for.

    Raises:
        FormatError: a kind, key or value that the runtime does not compute, with its name.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FormatError(f"model_type={_checks.shown(kind)}: must be one of {', '.join(_KINDS)}")
    if values.get("quantization_config") is not None:
        raise FormatError(
            "quantization_config: weights that Hugging Face quantised are not read: "
            "save the model in float16 or bfloat16, or use a GGUF file"
        )
    fields = Fields(values)
    try:
        description = _KINDS[kind](kind, fields)
    except ArgumentError as error:
        raise FormatError(str(error)) from error
    for key, value in fields.rest().items():
        _check_other(key, value)
    return description


def _check_other(key: str, value: Any) -> None:
    if key in _DESCRIBING or value is None or (key not in _FIXED and value is False):
        return
    if key not in _FIXED:
        raise FormatError(
            f"{_checks.shown(key)}={_checks.shown(value)}: unknown key, which may change what the model computes; "
            "where it does not, take it out of config.json"
        )
    if not any(type(value) is type(wanted) and value == wanted for wanted in _FIXED[key]):
        raise FormatError(f"{key}={_checks.shown(value)}: only {_FIXED[key][0]!r} is computed")


def _llama(kind: str, fields: Fields) -> Description:
    """Llama, Mistral, Qwen2 and Qwen3: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""
    hidden, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    positions = fields.size("max_position_embeddings", _POSITIONS[kind])
    head_dim = _head_dim(kind, fields, hidden, heads)
    layers = fields.size("num_hidden_layers")
    angles = _rope(fields, head_dim, positions)
    vocab_size = fields.size("vocab_size")
    architecture = Architecture(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=_kv_heads(fields, heads),
        head_dim=head_dim,
        intermediate_size=fields.size("intermediate_size"),
        max_positions=positions,
        norm="rms",
        norm_eps=fields.real("rms_norm_eps", 1e-12, 1.0, 1e-6),
        rope_frequencies=angles.frequencies,
        activation=_activation(fields, "hidden_act", "silu"),
        gated=True,
        qk_norm=kind == "qwen3",
        windows=_windows(kind, fields, layers),
        eos_token_ids=fields.ids("eos_token_id", vocab_size),
    )
    tied = fields.flag("tie_word_embeddings", False)
    return Description(architecture, kind, _biases(kind, fields), tied, angles.attention_factor)


def _gpt2(kind: str, fields: Fields) -> Description:
    """GPT-2: LayerNorm, learned positions, biases everywhere."""
    hidden, heads, layers = fields.size("n_embd", 768), fields.size("n_head", 12), fields.size("n_layer", 12)
    if hidden % heads:
        raise FormatError(f"n_embd={hidden}: must be a multiple of n_head={heads}")
    vocab_size = fields.size("vocab_size")
    inner = fields.size("n_inner", 4 * hidden)
    architecture = Architecture(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=inner,
        max_positions=fields.size("n_positions", 1024),
        norm="layer",
        norm_eps=fields.real("layer_norm_epsilon", 1e-12, 1.0, 1e-5),
        rope_frequencies=None,
        activation=_activation(fields, "activation_function", "gelu_new"),
        gated=False,
        windows=(None,) * layers,
        eos_token_ids=fields.ids("eos_token_id", vocab_size),
    )
    biases = frozenset({"q", "k", "v", "o", "up", "down"})
    return Description(architecture, kind, biases, fields.flag("tie_word_embeddings", True))


_KINDS: dict[str, Callable[[str, Fields], Description]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
}
# What transformers takes where the key is missing.
_POSITIONS = {"llama": 2048, "mistral": 4096 * 32, "qwen2": 32768, "qwen3": 32768}


def _head_dim(kind: str, fields: Fields, hidden: int, heads: int) -> int:
    head_dim = fields.take("head_dim")
    if head_dim is None and kind == "qwen3":
        head_dim = 128
    if head_dim is None:
        if hidden % heads:
            raise FormatError(f"hidden_size={hidden}: must be a multiple of num_attention_heads={heads}")
        head_dim = hidden // heads
    head_dim = _checks.integer("head_dim", head_dim, 1, LIMITS["head_dim"])
    if head_dim % 2:
        raise FormatError(f"head_dim={head_dim}: must be even (rotary positions turn pairs)")
    return head_dim


def _kv_heads(fields: Fields, heads: int) -> int:
    kv_heads = fields.size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise FormatError(f"num_key_value_heads={kv_heads}: must divide num_attention_heads={heads}")
    return kv_heads


def _activation(fields: Fields, name: str, default: str) -> Activation:
    value = fields.take(name, default)
    if not isinstance(value, str) or value not in _ACTIVATIONS:
        raise FormatError(f"{name}={_checks.shown(value)}: must be one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[value]


def _biases(kind: str, fields: Fields) -> frozenset[str]:
    if kind == "qwen2":
        return frozenset({"q", "k", "v"})
    if kind == "mistral":
        return frozenset()
    attention = fields.flag("attention_bias", False)
    mlp = kind == "llama" and fields.flag("mlp_bias", False)
    return frozenset(({"q", "k", "v", "o"} if attention else set()) | ({"gate", "up", "down"} if mlp else set()))


def _windows(kind: str, fields: Fields, layers: int) -> tuple[int | None, ...]:
    """Of each layer; Qwen's have one in the layers from max_window_layers on, or in those that layer_types names."""
    types, first = fields.take("layer_types"), fields.take("max_window_layers", 28)
    default = 4096 if kind == "mistral" and "sliding_window" not in fields else None  # null there means none
    window = fields.take("sliding_window", default)
    if kind in ("qwen2", "qwen3") and not fields.flag("use_sliding_window", False):
        window = None
    if kind == "llama" and window is not None:
        raise FormatError(f"sliding_window={_checks.shown(window)}: a llama has none")
    if window is not None:
        window = _checks.integer("sliding_window", window, 1, LIMITS["max_position_embeddings"])
    if types is None:
        first = 0 if kind == "mistral" else _checks.integer("max_window_layers", first, 0, LIMITS["num_hidden_layers"])
        return tuple(window if number >= first else None for number in range(layers))
    if not isinstance(types, list) or len(types) != layers:
        raise FormatError(f"layer_types={_checks.shown(types)}: must be a list of {layers}, one for each layer")
    kinds = {"full_attention": None, "sliding_attention": window}
    wrong = next((name for name in types if not isinstance(name, str) or name not in kinds), None)
    if wrong is not None or (window is None and "sliding_attention" in types):
        raise FormatError(
            f"layer_types={_checks.shown(types)}: must be full_attention, or sliding_attention with a window"
        )
    return tuple(kinds[name] for name in types)


def _rope(fields: Fields, head_dim: int, positions: int) -> Rope:
    """Since version 5 all stands in rope_parameters; before, rope_theta stood outside, the rest in rope_scaling."""
    theta, outer = fields.take("rope_theta"), fields.take("original_max_position_embeddings")
    old, new = fields.take("rope_scaling"), fields.take("rope_parameters")
    for name, value in (("rope_scaling", old), ("rope_parameters", new)):
        if value is not None and not isinstance(value, Mapping):
            raise FormatError(f"{name}={_checks.shown(value)}: must be an object")
    parameters: dict[str, Any] = {"original_max_position_embeddings": outer, **(old or {}), **(new or {})}
    if theta is not None and parameters.setdefault("rope_theta", theta) != theta:
        raise FormatError(f"rope_theta={_checks.shown(theta)}: another stands in rope_parameters")
    parameters.setdefault("rope_theta", 10000.0)
    old_kind = parameters.pop("type", "default")  # the key's name before transformers 4.45
    parameters.setdefault("rope_type", old_kind)
    if parameters.get("partial_rotary_factor", 1) not in (1, None):
        raise FormatError(f"partial_rotary_factor={_checks.shown(parameters['partial_rotary_factor'])}: must be 1")
    return rope(parameters, head_dim, positions)
