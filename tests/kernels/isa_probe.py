"""Runs every kernel on fixed inputs and saves the results: started once per instruction set by test_isa.py.

No torch here: the kernels take addresses, so numpy will do, and the process starts quickly.
"""

import sys

import numpy as np

from wordkiln import _kernels

KINDS = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}  # recurrences and their gates
FUNCTIONS = ("exp", "sigmoid", "tanh", "erf")


def inputs(dtype: str) -> np.ndarray:
    """The whole range of the functions, dense near 0, and what lies outside."""
    most = 89.0 if dtype == "float32" else 710.0
    span = np.linspace(-most, most, 200_001)
    near = np.geomspace(1e-30, 1.0, 20_001)
    mid = np.linspace(-20, 20, 100_001)
    special = [0.0, np.inf, -np.inf, np.nan, 1e30, -1e30]
    return np.concatenate([span, near, -near, mid, special]).astype(dtype)


def attention(dtype: str) -> dict[str, np.ndarray]:
    batch, heads, kv_heads, queries, keys, size = sizes = (2, 4, 2, 53, 131, 37)
    random = np.random.default_rng(1)
    q, grad_out = (random.standard_normal((batch, heads, queries, size)).astype(dtype) for _ in range(2))
    k, v = (random.standard_normal((batch, kv_heads, keys, size)).astype(dtype) for _ in range(2))
    lengths = np.array([keys, 70])
    out, lse = np.empty_like(q), np.empty((batch, heads, queries), dtype)
    grads = [np.empty_like(x) for x in (q, k, v)]
    rows, columns = (heads * queries * size, queries * size, size), (kv_heads * keys * size, keys * size, size)
    _kernels.attention_forward(
        dtype, *map(address, (q, k, v, out, lse, lengths)), sizes, rows, columns, columns, rows, True, 0.2
    )
    pointers = map(address, (q, k, v, out, lse, grad_out, *grads, lengths))
    _kernels.attention_backward(dtype, *pointers, sizes, rows, columns, columns, rows, rows, True, 0.2)
    return dict(zip(("out", "lse", "grad_q", "grad_k", "grad_v"), (out, lse, *grads), strict=True))


def changed_attention(dtype: str) -> dict[str, np.ndarray]:
    """With everything that changes scores, and with one query: other paths through the kernel."""
    batch, heads, kv_heads, queries, keys, size = sizes = (2, 4, 2, 53, 131, 37)
    random = np.random.default_rng(3)
    stored = (lambda x: (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)) if dtype == "bfloat16" else None
    computed = "float32" if dtype == "bfloat16" else dtype

    def draw(*shape):
        x = random.standard_normal(shape)
        return x.astype(dtype) if stored is None else stored(x)

    q, grad_out = (draw(batch, heads, queries, size) for _ in range(2))
    k, v, bias = draw(batch, kv_heads, keys, size), draw(batch, kv_heads, keys, size), draw(1, heads, queries, keys)
    slopes = random.random(heads)
    out, lse = np.empty_like(q), np.empty((batch, heads, queries), computed)
    grads, grad_bias = [np.empty_like(x) for x in (q, k, v)], np.zeros(bias.shape, computed)
    rows, columns = (heads * queries * size, queries * size, size), (kv_heads * keys * size, keys * size, size)
    biases = (0, queries * keys, keys, 1)
    changes = {"window": 70, "soft_cap": 3.0, "bias": address(bias), "bias_strides": biases, "slopes": address(slopes)}
    changes |= {"dropout": 0.25, "seed": 2**40 + 3, "offset": 9}
    inputs = [*map(address, (q, k, v, out, lse)), 0, sizes, rows, columns, columns, rows, True, 0.2]
    _kernels.attention_forward(dtype, *inputs, **changes)
    pointers = (*map(address, (q, k, v, out, lse, grad_out, *grads)), 0)
    _kernels.attention_backward(
        dtype, *pointers, sizes, rows, columns, columns, rows, rows, True, 0.2, **changes,
        grad_bias=address(grad_bias), grad_bias_strides=biases,
    )  # fmt: skip
    step, step_lse = np.empty((batch, heads, 1, size), q.dtype), np.empty((batch, heads, 1), computed)
    inputs = [*map(address, (q, k, v, step, step_lse)), 0, (batch, heads, kv_heads, 1, keys, size)]
    _kernels.attention_forward(dtype, *inputs, rows, columns, columns, (heads * size, size, size), True, 0.2)
    found = {"out": out, "grad_q": grads[0], "grad_k": grads[1], "grad_v": grads[2], "step": step}
    if stored is not None:  # as numbers again
        found = {name: (x.astype(np.uint32) << 16).view(np.float32) for name, x in found.items()}
    found |= {"lse": lse, "grad_bias": grad_bias, "step lse": step_lse}
    return {f"changed {name}": value for name, value in found.items()}


def recurrence(kind: str, gates: int, dtype: str) -> dict[str, np.ndarray]:
    steps, batch, hidden = sizes = (6, 19, 45)
    random = np.random.default_rng(2)
    x = random.standard_normal((steps, batch, gates * hidden)).astype(dtype)
    weight = (random.standard_normal((gates * hidden, hidden)) * 0.2).astype(dtype)
    h0, c0, grad_h, grad_c = (random.standard_normal((batch, hidden)).astype(dtype) for _ in range(4))
    out, cells, hidden_new, grad_out = (random.standard_normal((steps, batch, hidden)).astype(dtype) for _ in range(4))
    bias, bias_hh = random.standard_normal((2, gates * hidden)).astype(dtype)
    grad_bias = np.empty((gates + (kind == "gru")) * hidden, dtype)
    lengths = random.integers(0, steps + 1, batch)
    arrays = map(address, (x, weight, bias, bias_hh, h0, c0, lengths, out, cells, hidden_new))
    _kernels.recurrent_forward(dtype, kind, *arrays, sizes, True)
    arrays = (x, x, hidden_new, hidden_new, weight, h0, c0, lengths, out, cells, grad_out, grad_h, grad_c, grad_bias)
    _kernels.recurrent_backward(dtype, kind, *map(address, arrays), sizes)
    results = {"h": out, "grad_gates": x, "grad_h": grad_h, "grad_bias": grad_bias}
    if kind == "lstm":
        results |= {"cells": cells, "grad_c": grad_c}
    if kind == "gru":
        results["grad_hidden_new"] = hidden_new
    return {f"{kind}_{name}": value for name, value in results.items()}


def recurrences(dtype: str) -> dict[str, np.ndarray]:
    return {name: value for kind, gates in KINDS.items() for name, value in recurrence(kind, gates, dtype).items()}


def cross_entropy(dtype: str) -> dict[str, np.ndarray]:
    rows, vocabulary, width = sizes = (203, 517, 71)
    random = np.random.default_rng(3)
    hidden, weight, bias = (random.standard_normal(s).astype(dtype) for s in ((rows, width), (517, width), 517))
    targets = random.integers(vocabulary, size=rows)
    targets[::7] = -100
    grads = [np.empty_like(x) for x in (hidden, weight, bias)]
    pointers = map(address, (hidden, weight, bias, targets, *grads))
    loss = _kernels.linear_cross_entropy(dtype, *pointers, sizes, -100, 0.1, 0.01, True)
    names = ("loss", "grad_hidden", "grad_weight", "grad_bias")
    return dict(zip(names, (np.array(loss, dtype), *grads), strict=True))


def layers(dtype: str) -> dict[str, np.ndarray]:
    rows, width = sizes = (23, 71)
    random = np.random.default_rng(4)
    x, other, grad = (random.standard_normal(sizes).astype(dtype) for _ in range(3))
    weight = random.standard_normal(width).astype(dtype)
    total, normed, grad_x, product, grad_gate, grad_up = (np.empty_like(x) for _ in range(6))
    scale, grad_weight = np.empty(rows, dtype), np.empty_like(weight)
    _kernels.rms_norm_forward(dtype, *map(address, (x, other, weight, total, normed, scale)), sizes, 1e-5)
    pointers = map(address, (total, weight, scale, grad, other, grad_x, grad_weight))
    _kernels.rms_norm_backward(dtype, *pointers, sizes)
    _kernels.swiglu_forward(dtype, *map(address, (x, other, product)), x.size)
    _kernels.swiglu_backward(dtype, *map(address, (x, other, grad, grad_gate, grad_up)), x.size)
    names = ("total", "normed", "grad_x", "grad_norm", "product", "grad_gate", "grad_up")
    results = dict(zip(names, (total, normed, grad_x, grad_weight, product, grad_gate, grad_up), strict=True))
    for name, tanh in (("gelu", False), ("gelu_tanh", True)):
        out, grad_x, grad_bias = np.empty_like(x), np.empty_like(x), np.empty_like(weight)
        _kernels.gelu_forward(dtype, *map(address, (x, weight, out)), sizes, tanh)
        _kernels.gelu_backward(dtype, *map(address, (x, weight, grad, grad_x, grad_bias)), sizes, tanh)
        results |= {name: out, f"{name}_grad_x": grad_x, f"{name}_grad_bias": grad_bias}
    return results


def packed_linear() -> dict[str, np.ndarray]:
    rows, inputs, outputs = 9, 401, 133
    random = np.random.default_rng(5)
    x, weight, bias = (random.standard_normal(s).astype("float32") for s in ((rows, inputs), (outputs, inputs), 133))
    results = {}
    for storage in ("float32", "bfloat16"):
        out = np.empty((rows, outputs), "float32")
        _kernels.PackedLinear(address(weight), address(bias), outputs, inputs, storage)(address(x), address(out), rows)
        results[f"float32 packed_{storage}"] = out
    return results


def recurrent_steps() -> dict[str, np.ndarray]:
    """Three steps of two layers on packed weights, and three in one call; few rows and more."""
    inputs, hidden, results = 37, 53, {}
    for kind, gates in KINDS.items():
        random = np.random.default_rng(6)
        shapes = ((gates * hidden, inputs), (gates * hidden, hidden), gates * hidden, gates * hidden)
        first = [(random.standard_normal(shape) * 0.2).astype("float32") for shape in shapes]
        second = [(random.standard_normal(shape) * 0.2).astype("float32") for shape in (shapes[1], *shapes[1:])]
        for storage in ("float32", "bfloat16", "int8"):
            step = _kernels.RecurrentStep(kind, storage)
            step.add_layer(*map(address, first), inputs, hidden)
            step.add_layer(*map(address, second), hidden, hidden)
            for rows in (1, 2, 3, 4, 9):
                h, c = np.zeros((2, rows, hidden), "float32"), np.zeros((2, rows, hidden), "float32")
                for _ in range(3):
                    x = random.standard_normal((rows, inputs)).astype("float32")
                    step.step(address(x), address(h), address(c), rows)
                results[f"float32 step_{kind}_{storage}_{rows}"] = h
                x = random.standard_normal((3, rows, inputs)).astype("float32")
                out = np.empty((3, rows, hidden), "float32")
                step.read(*map(address, (x, h, c, out)), 3, rows)
                results[f"float32 read_{kind}_{storage}_{rows}"] = out
    return results


def elementwise(dtype: str) -> dict[str, np.ndarray]:
    x = inputs(dtype)
    results = {}
    for function in FUNCTIONS:
        out = np.empty_like(x)
        _kernels.elementwise(dtype, function, address(x), address(out), x.size)
        results[function] = out
    return results


def bfloat16() -> dict[str, np.ndarray]:
    """Of every bfloat16 there is, as bits."""
    x = np.arange(2**16, dtype=np.uint16)
    results = {}
    for function in FUNCTIONS:
        out = np.empty_like(x)
        _kernels.elementwise("bfloat16", function, address(x), address(out), x.size)
        results[f"bfloat16 {function}"] = out
    return results


def address(x: np.ndarray) -> int:
    return x.ctypes.data


if __name__ == "__main__":
    results = packed_linear() | recurrent_steps()
    for dtype in ("float32", "float64"):
        for part in (attention, recurrences, cross_entropy, layers, elementwise):
            results |= {f"{dtype} {name}": value for name, value in part(dtype).items()}
    for dtype in ("float32", "float64", "bfloat16"):
        results |= {f"{dtype} {name}": value for name, value in changed_attention(dtype).items()}
    results |= bfloat16()
    np.savez(sys.argv[1], isa=_kernels.current_isa(), **results)
