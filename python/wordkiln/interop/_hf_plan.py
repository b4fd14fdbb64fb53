"""Hugging Face's names of the tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from wordkiln.interop._hf_config import Description
from wordkiln.interop._layout import Part, Plan, Shape, tensor_shapes

_LLAMA = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "embed": "model.embed_tokens",
    "norm": "model.norm",
    "head": "lm_head",
}
_GPT2 = {
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "q": "attn.c_attn",
    "k": "attn.c_attn",
    "v": "attn.c_attn",
    "o": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
    "embed": "wte",
    "positions": "wpe",
    "norm": "ln_f",
    "head": "lm_head",
}
# Conv1D keeps [inputs, outputs].
_GPT2_TRANSPOSED = frozenset({"q", "k", "v", "o", "up", "down"})
# Tables that older versions of transformers saved with the weights, and computes.
_BUFFERS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def plan_of(description: Description, found: Collection[str]) -> Plan:
    """Where in a directory's files each tensor lies, given the names that there are."""
    shapes = tensor_shapes(description.architecture, biases=description.biases, tied=description.tied)
    if description.kind == "gpt2":  # the oldest files name its parts without the model they are of
        prefix = "transformer." if "transformer.wte.weight" in found else ""
        return {name: _gpt2_part(name, shape, prefix) for name, shape in shapes.items()}
    plan = {name: _llama_part(name, shape) for name, shape in shapes.items()}
    if description.attention_factor != 1.0:
        _fold_attention_factor(plan, description)
    return plan


def is_ignorable(description: Description, name: str) -> bool:
    """Whether a tensor outside the plan says nothing: a saved table, or the head's copy of a tied embedding."""
    return name.endswith(_BUFFERS) or (description.tied and name == "lm_head.weight")


def _llama_part(name: str, shape: Shape) -> Part:
    if not name.startswith("layers."):
        part, kind = name.split(".")
        return Part(f"{_LLAMA[part]}.{kind}", shape)
    _, number, part, kind = name.split(".")
    return Part(f"model.layers.{number}.{_LLAMA[part]}.{kind}", shape)


def _gpt2_part(name: str, shape: Shape, prefix: str) -> Part:
    if not name.startswith("layers."):
        part, kind = name.split(".")
        return Part(f"{'' if part == 'head' else prefix}{_GPT2[part]}.{kind}", shape)
    _, number, part, kind = name.split(".")
    tensor = f"{prefix}h.{number}.{_GPT2[part]}.{kind}"
    outputs = None
    if part in ("q", "k", "v"):
        width, place = shape[0], "qkv".index(part)
        outputs = (place * width, (place + 1) * width)
        shape = (3 * width, *shape[1:])
    if part in _GPT2_TRANSPOSED and kind == "weight":
        return Part(tensor, shape[::-1], outputs, transposed=True)
    return Part(tensor, shape, outputs)


def _fold_attention_factor(plan: Plan, description: Description) -> None:
    """Yarn multiplies cos and sin of q and k alike, so their product by the square: here q's own values are.

    With norms of q and k in between, it is the norm's weight.
    """
    factor = description.attention_factor**2
    for number in range(description.architecture.num_layers):
        names = ("q_norm.weight",) if description.architecture.qk_norm else ("q.weight", "q.bias")
        for name in (f"layers.{number}.{part}" for part in names):
            if name in plan:
                plan[name] = dataclasses.replace(plan[name], scale=factor)
