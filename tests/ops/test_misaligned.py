"""Storage that starts anywhere: no op asks for more alignment than one element has."""

import pytest
import torch

from wordkiln import ops
from wordkiln.ops import _activation, _norm


def shifted(x, by):
    """A contiguous copy of `x` that starts `by` elements behind an address that SIMD likes."""
    storage = torch.empty(x.numel() + by, dtype=x.dtype)
    copy = storage[by:].view(x.shape)
    copy.copy_(x.detach())
    assert copy.is_contiguous()
    assert copy.data_ptr() % 16
    return copy.requires_grad_(x.requires_grad)


def attention(q, k, v, bias, slopes, lengths):
    return ops.attention(q, k, v, window=30, key_lengths=lengths, bias=bias, slopes=slopes, soft_cap=2.0)


def packed_texts(q, k, v, offsets):
    return ops.attention_varlen(q, k, v, offsets)


def in_pages(q, k, v, table, lengths):
    with torch.no_grad():
        return ops.attention_paged(q, k, v, table, lengths)


def packed_weights(storage):
    return lambda x, weight, bias: ops.linear(x, ops.PackedLinear(weight, bias, storage))


def layer(op, gates, with_cells=False):
    def run(x, weight_ih, weight_hh, bias_ih, bias_hh, h, c, lengths):
        state = (h, c) if with_cells else h
        out, last = op(x, weight_ih, weight_hh, bias_ih, bias_hh, state, lengths=lengths)
        return (out, *last) if with_cells else (out, last)

    sizes = [(7, 3, 9), (gates * 21, 9), (gates * 21, 21), (gates * 21,), (gates * 21,), (3, 21), (3, 21)]
    return run, sizes, [torch.tensor([7, 0, 4])]


# What to call, the shapes of its inputs, and its integer inputs; which inputs are constants.
CASES = {
    "attention": (
        attention,
        [(2, 4, 33, 24), (2, 2, 70, 24), (2, 2, 70, 24), (1, 4, 33, 70), (4,)],
        [torch.tensor([70, 41])],
    ),
    "decoding": (
        attention,
        [(2, 4, 2, 24), (2, 2, 700, 24), (2, 2, 700, 24), (2, 1, 1, 700), (4,)],
        [torch.tensor([700, 41])],
    ),
    "packed texts": (packed_texts, [(20, 4, 24), (20, 2, 24), (20, 2, 24)], [torch.tensor([0, 13, 13, 20])]),
    "pages": (
        in_pages,
        [(2, 4, 1, 24), (6, 5, 2, 24), (6, 5, 2, 24)],
        [torch.tensor([[5, 1, 0], [2, 3, 4]]), torch.tensor([15, 8])],
    ),
    "lstm": layer(ops.lstm, 4, with_cells=True),
    "gru": layer(ops.gru, 3),
    "rnn": layer(ops.rnn, 1),
    "linear_cross_entropy": (
        lambda hidden, weight, bias, targets: ops.linear_cross_entropy(hidden, weight, targets, bias),
        [(203, 21), (301, 21), (301,)],
        [torch.randint(301, (203,), generator=torch.Generator().manual_seed(0))],
    ),
    "PackedLinear": (packed_weights("float32"), [(5, 33), (71, 33), (71,)], []),
    "PackedLinear bfloat16": (packed_weights("bfloat16"), [(5, 33), (71, 33), (71,)], []),
    "linear": (ops.linear, [(5, 33), (71, 33), (71,)], []),
    "swiglu": (ops.swiglu, [(5, 77), (5, 77)], []),
    "gelu": (ops.gelu, [(5, 77), (77,)], []),
    "gelu without bias": (ops.gelu, [(5, 77)], []),
    "rms_norm": (lambda x, weight, residual: ops.rms_norm(x, weight, 1e-5, residual), [(5, 77), (77,), (5, 77)], []),
    "rotary": (ops.rotary, [(2, 5, 3, 26), (2, 5, 13), (2, 5, 13)], []),
}
CONSTANTS = {"attention": [4], "decoding": [4], "pages": [0, 1, 2], "rotary": [1, 2]}
CONSTANTS |= {name: [0, 1, 2] for name in CASES if name.startswith("PackedLinear")}
# torch's own products, of which they are made in part, may choose another order of sums.
ROUNDED = ("lstm", "gru", "rnn", "linear")


def dtypes(name):
    return [torch.float32] if name.startswith("PackedLinear") else [torch.float32, torch.float64, torch.bfloat16]


def draw(name, dtype):
    _, shapes, _ = CASES[name]
    generator = torch.Generator().manual_seed(0)
    angle = torch.promote_types(dtype, torch.float32)
    for i, shape in enumerate(shapes):
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        fixed = i in CONSTANTS.get(name, [])
        yield x.to(angle if name == "rotary" and fixed else dtype).requires_grad_(not fixed)


def results(function, inputs, integers, shift_gradient):
    outputs = function(*inputs, *integers)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    learned = [x for x in inputs if x.requires_grad]
    if not learned:
        return outputs
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in outputs]
    return *outputs, *torch.autograd.grad(
        outputs, learned, [shift_gradient(x) for x in gradients], materialize_grads=True
    )


@pytest.mark.abuse
@pytest.mark.parametrize("by", [1, 3])
@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name in CASES for dtype in dtypes(name)], ids=str)
def test_results_do_not_depend_on_where_storage_starts(monkeypatch, name, dtype, by):
    monkeypatch.setattr(_activation, "_FEW", 0)
    monkeypatch.setattr(_norm, "_FEW", 0)
    function, _, integers = CASES[name]
    inputs = list(draw(name, dtype))
    want = results(function, inputs, integers, lambda x: x)
    moved = [shifted(x, by) for x in inputs]
    got = results(function, moved, [shifted(x, 1) for x in integers], lambda x: shifted(x, by) if x.dim() else x)
    tolerance = torch.finfo(dtype).eps * 8 if name in ROUNDED else 0
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
