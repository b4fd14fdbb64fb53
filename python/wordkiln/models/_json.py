"""config.json: the translation between its keys and the fields of `ModelConfig`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wordkiln.errors import FormatError
from wordkiln.models import _checks

if TYPE_CHECKING:
    from wordkiln.models.config import ModelConfig

LIMIT = 2**20  # bytes; a real config has one or two thousand
_RECURRENT_TYPES = {"wordkiln_lstm": "lstm", "wordkiln_gru": "gru", "wordkiln_rnn": "rnn"}

_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers")
_TRAINED = ("dropout", "tie_word_embeddings", "eos_token_id")
_RECURRENT_FIELDS = (*_SIZES, "embedding_size", *_TRAINED)
_TRANSFORMER_FIELDS = (
    *_SIZES,
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "max_position_embeddings",
    "rope_theta",
    "rms_norm_eps",
    *_TRAINED,
)
_REQUIRED = {"transformer": (*_SIZES, "num_attention_heads", "intermediate_size")}

# Keys of Hugging Face that say nothing about the logits of a model in evaluation mode.
_DESCRIBING = frozenset(
    {
        "_attn_implementation", "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype",
        "initializer_range", "is_llama_config", "model_type", "output_attentions", "output_hidden_states",
        "pad_token_id", "pretraining_tp", "return_dict", "tokenizer_fingerprint", "torch_dtype",
        "transformers.js_config", "transformers_version", "use_cache",
    }
)  # fmt: skip
# Keys that change the logits, with the only values that Wordkiln computes.
_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (1, None),
    "sliding_window": (None,),
    "use_sliding_window": (False,),
    "quantization_config": (None,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
}


def dumps(values: Mapping[str, Any]) -> str:
    """The text of a JSON file for people: indented, with a last newline."""
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_recurrent(config: ModelConfig) -> dict[str, Any]:
    """config.json of a recurrent model."""
    return {"model_type": f"wordkiln_{config.kind}"} | {name: getattr(config, name) for name in _RECURRENT_FIELDS}


def to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """config.json of a transformer: what `transformers.LlamaForCausalLM` takes, plus our dropout."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **{name: getattr(config, name) for name in _TRANSFORMER_FIELDS},
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        # transformers would put ids 1 and 2 in the place of missing ones.
        "bos_token_id": None,
        "pad_token_id": None,
    }


def fields_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ModelConfig` that a config.json stands for. Ranges are left to `ModelConfig`."""
    kind = _kind(values)
    names = _TRANSFORMER_FIELDS if kind == "transformer" else _RECURRENT_FIELDS
    values = dict(values)
    if kind == "transformer":
        _merge_rope_parameters(values)
        _check_head_dim(values)
    fields: dict[str, Any] = {"kind": kind}
    for key, value in values.items():
        if key in names:
            fields[key] = value
        elif key in _FIXED:
            _check_fixed(key, value)
        elif key not in _DESCRIBING:
            raise FormatError(f"model config: {_checks.shown(key)}: unknown key")
    for name in _REQUIRED.get(kind, _SIZES):
        if fields.get(name) is None:
            raise FormatError(f"model config: {name} is missing")
    fields["eos_token_id"] = _one_id(fields.get("eos_token_id"))
    return fields


def _kind(values: Mapping[str, Any]) -> str:
    model_type = values.get("model_type")
    if model_type == "llama":
        return "transformer"
    if isinstance(model_type, str) and model_type in _RECURRENT_TYPES:
        return _RECURRENT_TYPES[model_type]
    raise FormatError(
        f"model config: model_type={_checks.shown(model_type)}: must be one of llama, {', '.join(_RECURRENT_TYPES)}"
    )


def _merge_rope_parameters(values: dict[str, Any]) -> None:
    """Since version 5 transformers keeps rope_theta inside an object rope_parameters, beside rope_type."""
    parameters = values.pop("rope_parameters", None)
    if parameters is None:
        return
    if not isinstance(parameters, Mapping):
        raise FormatError(f"model config: rope_parameters={_checks.shown(parameters)}: must be an object")
    for key, value in parameters.items():
        if key == "rope_theta":
            if values.setdefault("rope_theta", value) != value:
                raise FormatError("model config: rope_theta and rope_parameters.rope_theta differ")
        elif key == "rope_type" and value == "default":
            continue
        else:
            _check_fixed(f"rope_parameters.{key}", value)


def _check_head_dim(values: dict[str, Any]) -> None:
    head_dim = values.pop("head_dim", None)
    heads, hidden_size = values.get("num_attention_heads"), values.get("hidden_size")
    if head_dim is None or not isinstance(heads, int) or not isinstance(hidden_size, int):
        return  # sizes of a wrong type are named by ModelConfig
    if not isinstance(head_dim, int) or head_dim * heads != hidden_size:
        raise FormatError(
            f"model config: head_dim={_checks.shown(head_dim)}: must be hidden_size / num_attention_heads "
            f"({_checks.shown(hidden_size)} / {_checks.shown(heads)})"
        )


def _check_fixed(key: str, value: Any) -> None:
    allowed = _FIXED.get(key.removeprefix("rope_parameters."), ())
    if not any(value is choice or (type(value) in (int, float, str) and value == choice) for choice in allowed):
        wanted = " or ".join(repr(choice) for choice in allowed) or "absent"
        raise FormatError(f"model config: {key}={_checks.shown(value)}: Wordkiln computes only {wanted}")


def _one_id(value: Any) -> Any:
    """Hugging Face allows a list of end ids; one is one."""
    if not isinstance(value, list):
        return value
    if len(value) == 1:
        return value[0]
    raise FormatError(f"model config: eos_token_id={_checks.shown(value)}: must be one id")
