"""`ops.gru` and `ops.rnn`: bad input (their results are held against torch's modules in tests/nn)."""

import pytest
import torch

from wordkiln import ops
from wordkiln.errors import ArgumentError


def draw(gates, hidden=5):
    rows = gates * hidden
    return torch.randn(3, 2, 4), torch.randn(rows, 4), torch.randn(rows, hidden), torch.randn(rows), torch.randn(rows)


@pytest.mark.parametrize(("op", "gates"), [(ops.gru, 3), (ops.rnn, 1)], ids=["gru", "rnn"])
def test_empty_sequence(op, gates):
    x, *weights = draw(gates)
    h0 = torch.randn(2, 5)
    out, h = op(x[:0], *weights, state=h0)
    assert out.shape == (0, 2, 5)
    assert torch.equal(h, h0)


@pytest.mark.abuse
@pytest.mark.parametrize(("op", "gates"), [(ops.gru, 3), (ops.rnn, 1)], ids=["gru", "rnn"])
def test_bad_shapes(op, gates):
    x, weight_ih, weight_hh, *biases = draw(gates)
    with pytest.raises(ArgumentError, match="weight_hh"):
        op(x, weight_ih, weight_hh[1:], *biases)
    with pytest.raises(ArgumentError, match="state h"):
        op(x, weight_ih, weight_hh, *biases, state=torch.zeros(3, 5))


@pytest.mark.abuse
def test_unknown_nonlinearity():
    with pytest.raises(ArgumentError, match="nonlinearity='gelu'"):
        ops.rnn(*draw(1), nonlinearity="gelu")
