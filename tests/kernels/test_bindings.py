"""The native side checks again what it can, so that a slip in Python is an error and not a crash."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from wordkiln import _kernels
from wordkiln.errors import ArgumentError

pytestmark = pytest.mark.abuse

ZERO = (0, 0, 0)
NONE = (0,) * 14


def attention(dtype="float32", pointers=(0,) * 5, lengths=0, sizes=(0, 1, 1, 0, 0, 1)):
    _kernels.attention_forward(dtype, *pointers, lengths, sizes, ZERO, ZERO, ZERO, ZERO, True, 1.0)


def test_nothing_to_do_is_fine():
    attention()
    for kind in ("lstm", "gru", "tanh", "relu"):
        _kernels.recurrent_forward("float64", kind, *NONE[:10], ZERO, True)
        _kernels.recurrent_backward("float64", kind, *NONE, ZERO)
    _kernels.elementwise("float32", "exp", 0, 0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"sizes": (-1, 1, 1, 1, 1, 1)}, "size -1"),
        ({"sizes": (2**31, 2**20, 1, 2**20, 1, 1)}, "2\\^62"),
        ({"sizes": (0, 2**62, 1, 2**62, 1, 1)}, "2\\^62"),
        ({"sizes": (1, 1, 1, 1, 1, 257)}, "head_size=257"),
        ({"sizes": (1, 1, 1, 1, 1, 0)}, "head_size=0"),
        ({"sizes": (1, 3, 2, 1, 1, 1)}, "heads=3"),
        ({"sizes": (1, 1, 0, 1, 1, 1)}, "kv_heads=0"),
        ({"sizes": (1, 1, 1, 1, 1, 1)}, "q: address"),
    ],
)
def test_attention_refuses(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        attention(**arguments)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"window": -1}, "window=-1"),
        ({"soft_cap": float("nan")}, "soft_cap"),
        ({"dropout": 1.0}, "dropout"),
        ({"bias_strides": (0, 0, 0, 2)}, "last stride must be 0 or 1"),
        ({"query_offsets": 64}, "must be given together"),
        ({"page_table": 64}, "page_size=0"),
        ({"page_table": 64, "page_size": 4, "pages": -1}, "-1 pages"),
        ({"page_table": 64, "page_size": 4, "dropout": 0.5}, "without query_offsets and dropout"),
    ],
)
def test_attention_refuses_changes_of_scores(more, message):
    with pytest.raises(ArgumentError, match=message):
        _kernels.attention_forward("float32", *(0,) * 6, (0, 1, 1, 0, 0, 1), ZERO, ZERO, ZERO, ZERO, True, 1.0, **more)


def test_attention_refuses_offsets_that_do_not_rise():
    offsets = np.array([0, 2, 1, 3])
    address = offsets.ctypes.data
    with pytest.raises(ArgumentError, match="query_offsets: must rise from 0 to 3"):
        _kernels.attention_forward(
            "float32", *(address,) * 5, 0, (3, 1, 1, 3, 3, 1), ZERO, ZERO, ZERO, ZERO, True, 1.0,
            query_offsets=address, key_offsets=address,
        )  # fmt: skip


@pytest.mark.parametrize("page", [-1, 3])
def test_attention_refuses_a_page_that_is_none(page):
    table, lengths = np.array([0, 2, page, 9]), np.array([5])
    with pytest.raises(ArgumentError, match=rf"page_table\[0, 2\]={page}: must be 0 to 2"):
        _kernels.attention_forward(
            "float32", *(0,) * 5, lengths.ctypes.data, (1, 1, 1, 1, 5, 1), ZERO, ZERO, ZERO, ZERO, True, 1.0,
            page_table=table.ctypes.data, pages=4, page_size=2, page_count=3,
        )  # fmt: skip


@pytest.mark.parametrize("length", [-1, 4])
def test_attention_refuses_key_lengths_out_of_range(length):
    lengths = np.array([length])
    address = lengths.ctypes.data
    with pytest.raises(ArgumentError, match=rf"key_lengths\[0\]={length}: must be 0 to 3"):
        attention(pointers=(address,) * 5, lengths=address, sizes=(1, 1, 1, 1, 3, 1))


def attention_of_tensors(**changes):
    q, k = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 5, 8)
    given = {"q": q, "k": k, "v": k, "out": q.clone(), "lse": torch.zeros(2, 4, 3)}
    given |= dict.fromkeys(("key_lengths", "bias", "slopes", "query_offsets", "key_offsets"))
    numbers = {"causal": True, "window": 0, "scale": 1.0, "soft_cap": 0.0, "dropout": 0.0, "seed": 0, "offset": 0}
    _kernels.attention_forward_tensors(**given | numbers | changes)


def paged_attention_of_tensors(**changes):
    q, pages = torch.zeros(2, 4, 3, 8), torch.zeros(5, 4, 2, 8)
    given = {"q": q, "key_pages": pages, "value_pages": pages, "out": q.clone(), "lse": torch.zeros(2, 4, 3)}
    given |= {"page_table": torch.tensor([[0, 4], [1, 9]]), "key_lengths": torch.tensor([8, 3]), "slopes": None}
    numbers = {"causal": True, "window": 0, "scale": 1.0, "soft_cap": 0.0}
    _kernels.attention_paged_tensors(**given | numbers | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"value_pages": torch.zeros(5, 4, 1, 8)}, "value_pages: shape does not fit q"),
        ({"key_pages": torch.zeros(5, 4, 2, 16)[..., ::2]}, "key_pages: rows must be contiguous"),
        ({"page_table": torch.tensor([[0, 5], [1, 1]])}, r"page_table\[0, 1\]=5: must be 0 to 4"),
        ({"page_table": torch.tensor([[0, 1]])}, "page_table: must have 2 rows"),
        ({"page_table": torch.tensor([[0, 1], [2, 3]]).t()}, "page_table: must be contiguous"),
        ({"page_table": torch.zeros(2, 2)}, "page_table: dtype must be int64"),
        ({"key_lengths": torch.tensor([8, 9])}, r"key_lengths\[1\]=9: must be 0 to 8"),
        ({"slopes": torch.zeros(4), "window": -1}, "window=-1"),
    ],
)
def test_paged_attention_refuses_tensors(changes, message):
    with nullcontext() if message is None else pytest.raises(ArgumentError, match=message):
        paged_attention_of_tensors(**changes)


def test_attention_takes_tensors():
    attention_of_tensors()
    attention_of_tensors(bias=torch.zeros(1, 4, 1, 5), slopes=torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": 7}, "q: must be a torch.Tensor"),
        ({"q": np.zeros((2, 4, 3, 8), np.float32)}, "q: must be a torch.Tensor"),
        ({"q": torch.zeros(2, 4, 8)}, "q: has 3 dimensions, must have 4"),
        ({"q": torch.zeros(2, 4, 3, 8, dtype=torch.float16)}, "q: dtype must be float32, float64 or bfloat16"),
        ({"q": torch.zeros(2, 4, 3, 16)[..., ::2]}, "q: rows must be contiguous"),
        ({"q": torch.zeros(2, 3, 3, 8), "out": torch.zeros(2, 3, 3, 8), "lse": torch.zeros(2, 3, 3)}, "heads=3"),
        ({"v": torch.zeros(2, 2, 4, 8)}, "v: shape does not fit q"),
        ({"k": torch.zeros(2, 2, 5, 8, dtype=torch.float64)}, "k: dtype does not fit q"),
        ({"out": torch.zeros(1, 4, 3, 8)}, "out: shape does not fit q"),
        ({"lse": torch.zeros(2, 4, 4)}, "lse: shape does not fit q"),
        ({"bias": torch.zeros(2, 4, 3, 4)}, "bias: shape does not fit"),
        ({"bias": torch.zeros(2, 4, 3, 5, dtype=torch.float64)}, "bias: dtype does not fit q"),
        ({"bias": torch.zeros(2, 4, 3, 10)[..., ::2]}, "bias: its last stride must be 0 or 1"),
        ({"slopes": torch.zeros(4, dtype=torch.float16)}, "slopes: dtype must be float32, float64 or bfloat16"),
        ({"slopes": torch.zeros(3)}, "slopes: must be 4 numbers"),
        ({"key_lengths": torch.tensor([5, 6])}, r"key_lengths\[1\]=6: must be 0 to 5"),
        ({"key_lengths": torch.tensor([5, 5], dtype=torch.int32)}, "key_lengths: dtype must be int64"),
        ({"key_lengths": torch.tensor([5, 0, 5, 0])[::2]}, "key_lengths: must be contiguous"),
        ({"query_offsets": torch.tensor([0, 3])}, "must be given together"),
    ],
)
def test_attention_refuses_tensors(changes, message):
    with pytest.raises(ArgumentError, match=message):
        attention_of_tensors(**changes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((1, 1, -1), "size -1"), ((1, 1, 2**31), "2\\^62"), ((2**40, 2**20, 1), "2\\^62"), ((1, 1, 1), "gates: address")],
)
def test_recurrence_refuses(sizes, message):
    with pytest.raises(ArgumentError, match=message):
        _kernels.recurrent_forward("float32", "lstm", *NONE[:10], sizes, True)
    with pytest.raises(ArgumentError, match=message.replace("gates", "activations")):
        _kernels.recurrent_backward("float32", "lstm", *NONE, sizes)


def test_recurrence_refuses_other_kinds():
    with pytest.raises(ArgumentError, match="kind='mgu'"):
        _kernels.recurrent_forward("float32", "mgu", *NONE[:10], ZERO, True)


CELL = {"dtype": "float32", "kind": "lstm", "sizes": (3, 1, 1), "step": 0, "zoneout": (0.0, 0.0, False, 0, 0)}
CELL_FORWARD = {"eps": 1e-5, "keep": True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float16"}, "dtype='float16'"),
        ({"dtype": "bfloat16"}, "there is no kernel for dtype='bfloat16'"),
        ({"kind": "tanh"}, "kind='tanh': must be 'lstm' or 'gru'"),
        ({"kind": "mgu"}, "kind='mgu'"),
        ({"sizes": (3, -1, 1)}, "gates: size -1"),
        ({"sizes": (2**31, 2**20, 2**20)}, "2\\^62"),
        ({"sizes": (3, 1, 1), "step": 3}, "step=3: must be 0 to 2"),
        ({"sizes": (3, 1, 1), "step": -1}, "step=-1: must be 0 to 2"),
        ({"sizes": (3, 1, 1)}, "(gates|activations): address must not be 0"),
        ({"zoneout": (1.0, 0.0, True, 0, 0)}, r"zoneout=1\.0+: must be at least 0 and less than 1"),
        ({"zoneout": (0.0, float("nan"), True, 0, 0)}, "zoneout=-?nan"),
    ],
)
def test_a_cell_s_step_refuses(change, message):
    arguments = CELL | {"sizes": (3, 0, 1)} | change
    with pytest.raises(ArgumentError, match=message):
        _kernels.cell_forward(arrays=(0,) * 14, **CELL_FORWARD, **arguments)
    with pytest.raises(ArgumentError, match=message):
        _kernels.cell_backward(arrays=(0,) * 22, **arguments)


@pytest.mark.parametrize("missing", [0, 1, 4, 5, 7, 8, 9, 10, 11, 13])  # all but gain_hh, bias_new, lengths, hidden_new
def test_a_cell_s_step_refuses_what_is_missing(missing):
    memory = np.zeros(64)
    arrays = [memory.ctypes.data] * 14
    arrays[6] = arrays[missing] = 0  # no lengths
    with pytest.raises(ArgumentError, match="address must not be 0"):
        _kernels.cell_forward(arrays=tuple(arrays), **CELL_FORWARD, **CELL)


def test_a_cell_s_step_refuses_an_eps_of_nothing():
    with pytest.raises(ArgumentError, match=r"eps=0\.0+: must be more than 0"):
        _kernels.cell_forward(arrays=(16,) * 14, eps=0.0, keep=True, **CELL)


@pytest.mark.parametrize("length", [-1, 4])
def test_a_cell_s_step_refuses_lengths_out_of_range(length):
    lengths = np.array([length])
    for function, count, more in ((_kernels.cell_forward, 14, CELL_FORWARD), (_kernels.cell_backward, 22, {})):
        with pytest.raises(ArgumentError, match=rf"lengths\[0\]={length}: must be 0 to 3"):
            function(arrays=(lengths.ctypes.data,) * count, **more, **CELL)


@pytest.mark.parametrize("length", [-1, 4])
def test_recurrence_refuses_lengths_out_of_range(length):
    lengths = np.array([length])
    pointers = [lengths.ctypes.data] * 10
    with pytest.raises(ArgumentError, match=rf"lengths\[0\]={length}: must be 0 to 3"):
        _kernels.recurrent_forward("float32", "tanh", *pointers, (3, 1, 1), True)


def test_a_type_without_a_kernel_is_refused():
    somewhere = np.zeros(3).ctypes.data
    arrays = (*(somewhere,) * 6, 0, *(somewhere,) * 7)  # but for lengths, which are looked at before
    with pytest.raises(ArgumentError, match="cell_forward: there is no kernel for dtype='bfloat16'"):
        _kernels.cell_forward(arrays=arrays, **CELL_FORWARD, **CELL | {"dtype": "bfloat16"})


def cross_entropy(pointers=(0,) * 7, sizes=(0, 1, 1)):
    return _kernels.linear_cross_entropy("float32", *pointers, sizes, -100, 0.0, 0.0, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": (0, 1, 2**62)}, "2\\^62"),
        ({"sizes": (0, 0, 1)}, "0 rows"),
        ({"sizes": (-1, 1, 1)}, "size -1"),
        ({"sizes": (1, 1, 1)}, "hidden: address"),
        ({"sizes": (0, 1, 1)}, "weight: address"),
    ],
)
def test_cross_entropy_refuses(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        cross_entropy(**arguments)


def test_cross_entropy_refuses_targets_out_of_range():
    targets = np.array([-100, 1])
    with pytest.raises(ArgumentError, match="targets: 1 must be 0 to 0 or -100"):
        cross_entropy((targets.ctypes.data,) * 7, (2, 1, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _kernels.PackedLinear(0, 0, 1, 1, "float32"), "weight: address"),
        (lambda: _kernels.PackedLinear(0, 0, 2**40, 2**40, "float32"), "2\\^62"),
        (lambda: _kernels.PackedLinear(0, 0, -1, 0, "float32"), "size -1"),
        (lambda: _kernels.PackedLinear(0, 0, 0, 0, "float16"), "storage='float16'"),
        (lambda: _kernels.PackedLinear(0, 0, 0, 1, "float32")(0, 0, 1), "x: address"),
        (lambda: _kernels.PackedLinear(0, 0, 0, 1, "float32").rows(0, 1, 1), "ids: address"),
        (lambda: _kernels.PackedLinear(0, 0, 0, 1, "float32").rows(1, 0, 1), "out: address"),
        (lambda: _kernels.rms_norm_forward("float32", 0, 0, 0, 0, 0, 0, (1, 1), 0.1), "x: address"),
        (lambda: _kernels.rms_norm_backward("float32", 0, 0, 0, 0, 0, 0, 0, (1, -1)), "size -1"),
        (lambda: _kernels.gelu_forward("float32", 0, 0, 0, (1, 1), False), "x: address"),
        (lambda: _kernels.gelu_backward("float32", 0, 1, 0, 0, 0, (0, 1), True), "grad_bias: address"),
        (lambda: _kernels.gelu_backward("float32", 0, 0, 0, 0, 0, (-1, 1), True), "size -1"),
        (lambda: _kernels.swiglu_forward("float32", 0, 0, 0, 1), "gate: address"),
        (lambda: _kernels.swiglu_backward("float16", 0, 0, 0, 0, 0, 0), "dtype='float16'"),
    ],
)
def test_the_kernels_of_layers_refuse(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_elementwise_refuses():
    with pytest.raises(ArgumentError, match="function='sin'"):
        _kernels.elementwise("float32", "sin", 0, 0, 0)
    with pytest.raises(ArgumentError, match="x: address"):
        _kernels.elementwise("float32", "exp", 0, 0, 1)


def test_a_negative_address_is_a_type_error():
    with pytest.raises(TypeError):
        _kernels.elementwise("float32", "exp", -1, 0, 0)


def test_scratch_that_cannot_be_had_is_a_memory_error():
    byte = np.zeros(1).ctypes.data  # strides of 0: the kernel would never leave it
    with pytest.raises(MemoryError):
        attention(pointers=(byte,) * 5, sizes=(1, 1, 1, 1, 2**50, 256))
