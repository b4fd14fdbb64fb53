"""`_kernels.TensorShapes`: what fits a pattern, and that all else only does not."""

import pytest
import torch

from wordkiln import _kernels
from wordkiln.errors import ArgumentError


def zeros(*shape, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype)


class Own(torch.Tensor):
    """A subclass."""


@pytest.mark.parametrize(
    ("pattern", "tensors", "fits"),
    [
        ("a b, b", (zeros(2, 3), zeros(3)), True),
        ("a b, b", (zeros(2, 3), zeros(2)), False),
        ("a b, b", (zeros(2, 3),), False),
        ("a b, b", (zeros(2, 3), zeros(3), zeros(3)), False),
        ("a b, b", (zeros(2, 3), None), False),
        ("a b, b ?", (zeros(2, 3), None), True),
        ("a b", (zeros(3),), False),
        ("a, 4a", (zeros(2), zeros(8)), True),
        ("a, 4a", (zeros(2), zeros(7)), False),
        ("4a, a", (zeros(8), zeros(2)), True),
        ("4a", (zeros(7),), False),
        ("4a", (zeros(0),), True),
        ("a b, ~a ~b", (zeros(2, 3), zeros(1, 3)), True),
        ("a b, ~a ~b", (zeros(2, 3), zeros(2, 2)), False),
        ("... d, ..., d", (zeros(2, 3, 4), zeros(2, 3), zeros(4)), True),
        ("... d, ...", (zeros(2, 3, 4), zeros(3, 2)), False),
        ("... d, ...", (zeros(2, 3, 4), zeros(2)), False),
        ("... d, ...", (zeros(4), zeros()), True),
        ("... d", (zeros(),), False),
        ("a, a", (zeros(2), zeros(2, dtype=torch.float64)), False),
        ("a, a", (zeros(2, dtype=torch.bfloat16), zeros(2, dtype=torch.bfloat16)), True),
        ("a", (zeros(2, dtype=torch.float16),), False),
        ("a", (zeros(2, dtype=torch.int64),), False),
        ("a, int64: a", (zeros(2), zeros(2, dtype=torch.int64)), True),
        ("a, int64: a", (zeros(2), zeros(2, dtype=torch.int32)), False),
        ("a, wide: a", (zeros(2, dtype=torch.bfloat16), zeros(2)), True),
        ("a, wide: a", (zeros(2, dtype=torch.bfloat16), zeros(2, dtype=torch.bfloat16)), False),
        ("a, wide: a", (zeros(2, dtype=torch.float64), zeros(2)), False),
        ("a, float: a", (zeros(2, dtype=torch.bfloat16), zeros(2, dtype=torch.float64)), True),
        ("a, float: a", (zeros(2), zeros(2, dtype=torch.float16)), False),
        ("a b", (zeros(2, 6)[:, ::2],), True),
        ("a", (torch.nn.Parameter(zeros(2)),), True),
        ("a", (zeros(2).as_subclass(Own),), False),
        ("a", (torch.zeros(2, device="meta"),), False),
        ("a b", (zeros(2, 3).to_sparse(),), False),
        ("a", (7,), False),
        ("a", ([1.0, 2.0],), False),
        ("a ?", (None,), False),
        ("", (), False),
    ],
)
def test_what_fits(pattern, tensors, fits):
    assert _kernels.TensorShapes(pattern).device(*tensors) == ("cpu" if fits else None)


@pytest.mark.abuse
@pytest.mark.parametrize("pattern", ["A", "ab", "4", "~4a", "12a", "a !", "..", "int32: a", "é"])
def test_no_pattern_is_named(pattern):
    with pytest.raises(ArgumentError, match="pattern"):
        _kernels.TensorShapes(pattern)


def test_wrappers_of_torch_func_do_not_fit():
    shapes, answers = _kernels.TensorShapes("a"), []
    torch.func.vmap(lambda x: (answers.append(shapes.device(x)), x)[1])(zeros(2, 3))
    assert answers == [None]


@pytest.mark.parametrize(
    ("inputs", "device"),
    [
        ((None, True, 3, 0.5, "lstm", [True, False], zeros(2), torch.nn.Parameter(zeros(2))), "cpu"),
        ((zeros(2, dtype=torch.float16), zeros(2, dtype=torch.int32)), "cpu"),
        ((zeros(2), torch.zeros(2, device="meta")), None),
        ((zeros(2).as_subclass(Own),), None),
        (((1, 2),), None),
        ((object(),), None),
        ((), None),
    ],
)
def test_plain_device(inputs, device):
    assert _kernels.plain_device(inputs) == device
