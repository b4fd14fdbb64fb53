"""`_kernels.RecurrentStep` against torch's modules, in every storage. On every instruction set: test_isa.py."""

import numpy as np
import pytest
import torch

from wordkiln import _kernels
from wordkiln.errors import ArgumentError

# Largest error of h (values below 1) after six steps: roundings of float32; of weights to 8 bits; of weights to 1/127
# of their row's largest, of which some tens add up at random.
ERRORS = {"float32": 2e-6, "bfloat16": 2e-2, "int8": 4e-2}
MODULES = {
    "lstm": torch.nn.LSTM,
    "gru": torch.nn.GRU,
    "tanh": torch.nn.RNN,
    "relu": lambda *sizes, **settings: torch.nn.RNN(*sizes, nonlinearity="relu", **settings),
}


def address(x):
    return 0 if x is None else x.ctypes.data


def pack(module, kind, storage):
    step = _kernels.RecurrentStep(kind, storage)
    for layer in range(module.num_layers):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        tensors = [getattr(module, f"{name}_l{layer}", None) for name in names]
        arrays = [None if tensor is None else tensor.detach().numpy() for tensor in tensors]
        step.add_layer(*map(address, arrays), arrays[0].shape[1], module.hidden_size)
    return step


def run(step, x, layers, hidden):
    """Every step's output [T, B, H], from zero states."""
    h, c = (np.zeros((layers, x.shape[1], hidden), np.float32) for _ in range(2))
    outputs = []
    for now in x:
        step.step(address(now), address(h), address(c), x.shape[1])
        outputs.append(h[-1].copy())
    return np.stack(outputs)


@pytest.mark.parity
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("storage", ERRORS)
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_matches_torch(kind, storage, batch, bias):
    torch.manual_seed(0)
    for layers, size, hidden in ((1, 1, 1), (3, 11, 37), (2, 64, 64)):
        module = MODULES[kind](size, hidden, layers, bias=bias)
        x = torch.randn(6, batch, size)
        step = pack(module, kind, storage)
        assert (step.layers, step.inputs, step.hidden) == (layers, size, hidden)
        with torch.no_grad():
            want = module(x)[0].numpy()
        got = run(step, x.numpy(), layers, hidden)
        assert np.abs(got - want).max() <= ERRORS[storage] * max(1, np.abs(want).max())


def read(step, x, h, c, hidden):
    """Every step's output [T, B, H] in one call; h and c are advanced."""
    out = np.full((*x.shape[:2], hidden), np.nan, np.float32)
    step.read(*map(address, (x, h, c, out)), *x.shape[:2])
    return out


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("storage", ERRORS)
@pytest.mark.parametrize("batch", [1, 3, 9])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_sequence_is_its_steps(kind, storage, batch, layers):
    """From a state that is not zero, in calls of one step and of several, whose rows are no multiple of a tile's."""
    torch.manual_seed(1)
    size, hidden = 11, 37
    step, x = pack(MODULES[kind](size, hidden, layers), kind, storage), torch.randn(13, batch, size).numpy()
    h, c = (torch.randn(layers, batch, hidden).numpy() for _ in range(2))
    states, wanted = (h.copy(), c.copy()), []
    for now in x:
        step.step(address(now), *map(address, states), batch)
        wanted.append(states[0][-1].copy())
    got = [read(step, part, h, c, hidden) for part in np.split(x, [1, 3, 12])]
    # float32 sums of some tens of numbers below 4, in another order.
    np.testing.assert_allclose(np.concatenate(got), np.stack(wanted), rtol=0, atol=1e-5)
    np.testing.assert_allclose(h, states[0], rtol=0, atol=1e-5)
    if kind == "lstm":
        np.testing.assert_allclose(c, states[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", MODULES)
def test_bits_do_not_depend_on_threads(kind):
    module = MODULES[kind](200, 300, 2)
    step, x = pack(module, kind, "float32"), torch.randn(4, 2, 200).numpy()

    def whole():
        return read(step, x, *(np.zeros((2, 2, 300), np.float32) for _ in range(2)), 300)

    threads, results = _kernels.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            _kernels.set_num_threads(count)
            results.append((run(step, x, 2, 300), whole()))
    finally:
        _kernels.set_num_threads(threads)
    for steps, sequence in results:
        np.testing.assert_array_equal(steps, results[0][0])
        np.testing.assert_array_equal(sequence, results[0][1])


def test_storage_says_how_much_is_read():
    sizes = {storage: pack(torch.nn.LSTM(64, 64), "lstm", storage).bytes for storage in ERRORS}
    assert sizes == {"float32": 4 * 256 * 128, "bfloat16": 2 * 256 * 128, "int8": 256 * 128}


def test_nothing_to_do():
    step = _kernels.RecurrentStep("lstm", "float32")
    step.step(0, 0, 0, 3)
    step.read(0, 0, 0, 0, 2, 3)
    gru = pack(torch.nn.GRU(3, 4), "gru", "int8")
    gru.step(0, 0, 0, 0)
    gru.read(0, 0, 0, 0, 5, 0)
    h = np.ones((1, 2, 4), np.float32)
    gru.read(0, address(h), 0, 0, 0, 2)
    assert (h == 1).all()


@pytest.mark.abuse
def test_refuses():
    value = np.ones(1000, np.float32)
    here = address(value)
    with pytest.raises(ArgumentError, match="kind='mgu'"):
        _kernels.RecurrentStep("mgu", "float32")
    with pytest.raises(ArgumentError, match="storage='int4'"):
        _kernels.RecurrentStep("gru", "int4")
    step = _kernels.RecurrentStep("gru", "int8")
    for arguments, message in [
        ((0, here, 0, 0, 3, 4), "weight_ih: address"),
        ((here, 0, 0, 0, 3, 4), "weight_hh: address"),
        ((here, here, 0, 0, -1, 4), "size -1"),
        ((here, here, 0, 0, 3, 0), "hidden=0"),
        ((here, here, 0, 0, 2**40, 2**40), "2\\^62"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            step.add_layer(*arguments)
    value[5] = np.nan
    with pytest.raises(ArgumentError, match="weight_ih: must be finite to be stored as int8; element 5"):
        step.add_layer(here, here, 0, 0, 3, 4)
    value[5] = 1
    step.add_layer(here, here, 0, 0, 3, 4)
    with pytest.raises(ArgumentError, match="inputs=3, hidden=4: must both be 4"):
        step.add_layer(here, here, 0, 0, 3, 4)
    for arguments, message in [
        ((0, here, 0, 1), "x: address"),
        ((here, 0, 0, 1), "h: address"),
        ((0, 0, 0, -1), "size -1"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            step.step(*arguments)
    for arguments, message in [
        ((0, here, 0, here, 1, 1), "x: address"),
        ((here, 0, 0, here, 1, 1), "h: address"),
        ((here, here, 0, 0, 1, 1), "out: address"),
        ((here, here, 0, here, -1, 1), "size -1"),
        ((here, here, 0, here, 2**40, 2**40), "2\\^62"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            step.read(*arguments)
