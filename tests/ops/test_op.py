"""Ops are called straight where nobody looks, and through torch's dispatcher where somebody does."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wordkiln import ops

CALLS = {
    "attention": lambda x: ops.attention(*(x.view(1, 4, 64, 64),) * 3),
    "rms_norm": lambda x: ops.rms_norm(x, torch.ones(256), 1e-5),
    "swiglu": lambda x: ops.swiglu(x, x),
    "linear_cross_entropy": lambda x: ops.linear_cross_entropy(x, torch.ones(3, 256), torch.ones(64, dtype=torch.long)),
    "recurrent": lambda x: ops.lstm(x[:, None], torch.full((8, 256), 0.1), torch.full((8, 2), 0.1))[0],
}


class Names(TorchDispatchMode):
    """Keeps the names of the ops of ours that it sees."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "wordkiln":
            self.seen.add(func._opname)
        return func(*args, **(kwargs or {}))


class Own(torch.Tensor):
    """A subclass that does nothing."""


@pytest.fixture
def x():
    return torch.linspace(-1, 1, 64 * 256).view(64, 256).sin()


@pytest.mark.parametrize("name", CALLS)
def test_a_dispatch_mode_sees_the_op(name, x):
    with Names() as names:
        watched = CALLS[name](x)
    assert name in names.seen
    assert torch.equal(watched, CALLS[name](x))


@pytest.mark.parametrize("name", CALLS)
def test_both_ways_give_the_same_gradients(name, x):
    gradients = []
    for mode in (nullcontext(), Names()):
        own = x.clone().requires_grad_()
        with mode:
            CALLS[name](own).square().sum().backward()
        gradients.append(own.grad)
    assert torch.equal(*gradients)
    assert gradients[0].any()


@pytest.mark.parametrize("name", CALLS)
def test_a_subclass_goes_through_the_dispatcher(name, x):
    out = CALLS[name](x.as_subclass(Own))
    assert torch.equal(out.as_subclass(torch.Tensor), CALLS[name](x))


@pytest.mark.parametrize("name", CALLS)
def test_function_transforms_are_refused(name, x):
    """By torch, which takes no custom op's gradient there; a straight call would give a wrong one."""
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda x: CALLS[name](x).square().sum())(x)


@pytest.mark.parametrize("name", CALLS)
def test_a_second_derivative_is_refused(name, x):
    own = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(CALLS[name](own).square().sum(), own, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.square().sum(), own)


@pytest.mark.parametrize("name", CALLS)
def test_no_gradient_is_kept_where_none_is_wanted(name, x):
    with torch.no_grad():
        assert not CALLS[name](x.clone().requires_grad_()).requires_grad
    assert not CALLS[name](x).requires_grad


def test_another_default_device_does_not_move_the_loss(x):
    inputs = (x, torch.ones(3, 256), torch.ones(64, dtype=torch.long))
    wanted = ops.linear_cross_entropy(*inputs)
    with torch.device("meta"):
        assert torch.equal(ops.linear_cross_entropy(*inputs), wanted)


def test_another_default_device_does_not_move_the_seed(x):
    q = x[None, None]
    with torch.device("meta"):
        torch.manual_seed(0)
        dropped = ops.attention(q, q, q, dropout=0.5)
    torch.manual_seed(0)
    assert torch.equal(dropped, ops.attention(q, q, q, dropout=0.5))
