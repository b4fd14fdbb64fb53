"""Small random decoders of several shapes, as the runtime takes them. Run by itself it saves what they compute: started
once per instruction set by test_decoder.py. No torch here.
"""

import sys

import numpy as np

from wordkiln.runtime import Architecture, DecoderModel
from wordkiln.runtime.architecture import EncodedMatrix

VOCAB = 203
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_layers": 3,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 8,
    "intermediate_size": 75,  # not whole vectors
    "max_positions": 700,
    "norm": "rms",
    "norm_eps": 1e-5,
    "rope_frequencies": tuple(10000.0 ** (-i / 4) for i in range(4)),
    "activation": "silu",
    "gated": True,
    "windows": (None, None, None),
    "eos_token_ids": (3, 5),
}
GPT2 = BASE | {
    "num_kv_heads": 6,
    "norm": "layer",
    "rope_frequencies": None,
    "activation": "gelu_tanh",
    "gated": False,
}
CHANGES = {
    "llama": BASE,
    "gpt2": GPT2,
    "gpt2-erf": GPT2 | {"activation": "gelu", "hidden_size": 33, "num_heads": 3, "num_kv_heads": 3, "head_dim": 11},
    "qwen3": BASE | {"qk_norm": True, "head_dim": 20, "rope_frequencies": tuple(0.9**i for i in range(10))},
    "llama-biases": BASE | {"activation": "gelu"},
    "window": BASE | {"windows": (5, None, 70)},
    "one-head": BASE | {"num_heads": 1, "num_kv_heads": 1, "head_dim": 48, "rope_frequencies": (1.0,) * 24},
    "wide": BASE | {"hidden_size": 160, "head_dim": 40, "rope_frequencies": tuple(0.8**i for i in range(20))},
    "thirty-heads": BASE | {"num_heads": 30, "num_kv_heads": 1, "head_dim": 2, "rope_frequencies": (0.5,)},
}
ARCHITECTURES = {name: Architecture(**change) for name, change in CHANGES.items()}


class Arrays:
    """A TensorSource of arrays in memory."""

    def __init__(self, arrays):
        self.arrays = arrays

    def names(self):
        return self.arrays.keys()

    def read(self, name):
        return self.arrays[name]

    def encoded(self, name):
        return EncodedMatrix.plain(self.arrays[name])


LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
NORMS = ("attention_norm", "mlp_norm", "norm")


def shapes(name):
    a = ARCHITECTURES[name]
    heads, keys = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    found = {"embed": (VOCAB, a.hidden_size), "norm": (a.hidden_size,)}
    if a.rope_frequencies is None:
        found["positions"] = (a.max_positions, a.hidden_size)
    else:
        found["head"] = (VOCAB, a.hidden_size)
    for layer in range(a.num_layers):
        parts = {
            "attention_norm": (a.hidden_size,),
            "q": (heads, a.hidden_size),
            "k": (keys, a.hidden_size),
            "v": (keys, a.hidden_size),
            "o": (a.hidden_size, heads),
            "mlp_norm": (a.hidden_size,),
            "up": (a.intermediate_size, a.hidden_size),
            "down": (a.hidden_size, a.intermediate_size),
        }
        if a.gated:
            parts["gate"] = (a.intermediate_size, a.hidden_size)
        if a.qk_norm:
            parts |= {"q_norm": (a.head_dim,), "k_norm": (a.head_dim,)}
        found |= {f"layers.{layer}.{name}": shape for name, shape in parts.items()}
    weights = {f"{name}.weight": shape for name, shape in found.items()}
    biased = NORMS + LINEARS if a.norm == "layer" else LINEARS if name == "llama-biases" else ()
    return weights | {f"{name}.bias": found[name][:1] for name in found if name.split(".")[-1] in biased}


def source(name, seed=0):
    random = np.random.default_rng(seed)
    arrays = {}
    for tensor, shape in shapes(name).items():
        size = 0.5 if len(shape) == 1 else 1.5 / np.sqrt(shape[-1])
        arrays[tensor] = (random.standard_normal(shape) * size + ("norm.weight" in tensor)).astype(np.float32)
    return Arrays(arrays)


def model(name, dtype="float32"):
    return DecoderModel(ARCHITECTURES[name], source(name), dtype)


def texts(*lengths, seed=7):
    random = np.random.default_rng(seed)
    return [random.integers(0, VOCAB, length).tolist() for length in lengths]


def computed(name, dtype):
    """Logits of prompts and of steps, and scores."""
    decoder = model(name, dtype)
    prompts = texts(3, 130, 64, 1)
    state, logits = decoder.begin(prompts)
    results = [logits]
    for ids in texts(4, 4, 4):
        results.append(decoder.step(state, ids))
    scores = np.concatenate(decoder.score(texts(40, 2, 90)))
    return np.concatenate([*results, np.resize(scores, (1, VOCAB))])


if __name__ == "__main__":
    np.savez(
        sys.argv[1],
        **{
            f"{name} {dtype}": computed(name, dtype)
            for name in ARCHITECTURES
            for dtype in ("float32", "bfloat16", "int8")
        },
    )
