import pytest
import torch
from torch.nn import functional as F

from wordkiln import ops
from wordkiln.errors import ArgumentError


def test_matches_torch():
    x, weight, bias = torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5)
    assert torch.equal(ops.linear(x, weight, bias), F.linear(x, weight, bias))
    assert torch.equal(ops.linear(x[0, 0], weight), F.linear(x[0, 0], weight))


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        (torch.zeros(()), torch.zeros(5, 4), None, "x: shape"),
        (torch.zeros(2, 3), torch.zeros(5, 4), None, r"weight: shape \[5, 4\] must be \[any, 3\]"),
        (torch.zeros(2, 4), torch.zeros(5, 4), torch.zeros(4), r"bias: shape \[4\] must be \[5\]"),
        (torch.zeros(2, 4), torch.zeros(5, 4).double(), None, "weight: dtype"),
    ],
)
def test_bad_arguments(x, weight, bias, message):
    with pytest.raises(ArgumentError, match=message):
        ops.linear(x, weight, bias)
