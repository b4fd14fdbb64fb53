"""`nn.LSTM`, `nn.GRU` and `nn.RNN` beside torch's: same state dict, same results, same shapes."""

import pytest
import torch

from wordkiln import nn, ops
from wordkiln.errors import ArgumentError

pytestmark = pytest.mark.parity

KINDS = ["LSTM", "GRU", "RNN"]
SETTINGS = [
    {},
    {"num_layers": 3},
    {"bias": False},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "dropout": 0.4},
]


def pair(kind, **settings):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(5, 6, dtype=torch.float64, **settings)
    ours = getattr(nn, kind)(5, 6, dtype=torch.float64, **settings)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def run(module, x, state):
    """Results and gradients with the same random numbers (dropout between layers) for both modules."""
    torch.manual_seed(1)
    out, last = module(x, state)
    last = last if isinstance(last, tuple) else (last,)
    loss = out.square().sum() + sum(part.sum() for part in last)
    return [out, *last, *torch.autograd.grad(loss, [x, *module.parameters()])]


def first_state(kind, module, *batch):
    layers = module.num_layers * (2 if module.bidirectional else 1)
    parts = [torch.randn(layers, *batch, 6, dtype=torch.float64) for _ in range(2)]
    return tuple(parts) if kind == "LSTM" else parts[0]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("with_state", [True, False])
def test_matches_torch(kind, settings, with_state):
    ours, theirs = pair(kind, **settings)
    x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
    batch = 4 if settings.get("batch_first") else 3
    state = first_state(kind, ours, batch) if with_state else None
    for got, want in zip(run(ours, x, state), run(theirs, x, state), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"batch_first": True, "bidirectional": True}], ids=str)
def test_unbatched_input(kind, settings):
    ours, theirs = pair(kind, **settings)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    state = first_state(kind, ours)
    for got, want in zip(run(ours, x, state), run(theirs, x, state), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_load_both_ways(kind):
    ours, theirs = pair(kind, num_layers=2, bidirectional=True)
    theirs.load_state_dict(ours.state_dict())
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]


def test_same_initialisation_as_torch():
    torch.manual_seed(5)
    ours = nn.LSTM(5, 6)
    torch.manual_seed(5)
    theirs = torch.nn.LSTM(5, 6)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_relu_rnn():
    ours, theirs = pair("RNN", nonlinearity="relu")
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])


def test_no_dropout_in_eval():
    ours, _ = pair("LSTM", num_layers=2, dropout=0.5)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    ours.eval()
    assert torch.equal(ours(x)[0], ours(x)[0])


def test_float32_is_as_exact_as_torch_s_on_a_long_sequence():
    torch.manual_seed(0)
    theirs, ours = torch.nn.LSTM(32, 48, 2), nn.LSTM(32, 48, 2)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(60, 5, 32)
    plain, got = theirs(x)[0], ours(x)[0]
    exact = theirs.double()(x.double())[0]
    # Twice torch's error, and four roundings of values below 1 for luck on its side.
    assert (got - exact).abs().max() <= 2 * (plain - exact).abs().max() + 4 * torch.finfo(torch.float32).eps


@pytest.mark.abuse
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(kind):
    module = getattr(nn, kind)(5, 6)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.zeros(4, 3, 5), [4, 3, 2])
    state = (torch.zeros(1, 2, 6),) * 2 if kind == "LSTM" else torch.zeros(1, 2, 6)
    for arguments, message in [
        ((packed,), "PackedSequence is not supported"),
        ((torch.zeros(4, 3, 7),), r"input: shape \[4, 3, 7\] must be"),
        ((torch.zeros(4, 1, 3, 5),), "input: shape"),
        (("text",), "input: shape str"),
        ((torch.zeros(4, 3, 5), state), r"hx \(h\): shape \[1, 2, 6\] must be \[1, 3, 6\]"),
        ((torch.zeros(4, 3, 5).double(),), "dtype"),
    ]:
        with pytest.raises(ArgumentError, match=message):
            module(*arguments)


@pytest.mark.abuse
def test_projections_and_a_lone_state_are_refused():
    with pytest.raises(ArgumentError, match="proj_size=3"):
        nn.LSTM(5, 6, proj_size=3)
    with pytest.raises(ArgumentError, match="pair"):
        nn.LSTM(5, 6)(torch.zeros(4, 3, 5), torch.zeros(1, 3, 6))


CELLS = [{"layer_norm": True}, {"zoneout": True}, {"layer_norm": True, "zoneout": True, "bidirectional": True}]


def cell_module(kind, num_layers=2, **settings):
    """The module with the settings of `CELLS`, and gains that are not all 1."""
    torch.manual_seed(2)
    if settings.pop("zoneout", False):
        settings["zoneout"] = (0.3, 0.2) if kind == "LSTM" else 0.3
    module = getattr(nn, kind)(5, 6, num_layers, dtype=torch.float64, **settings)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "gain" in name or "bias_c" in name:
                parameter.add_(torch.randn_like(parameter) / 4)
    return module


@pytest.mark.parametrize("settings", CELLS, ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("training", [True, False])
def test_norms_and_zoneout_are_those_of_ops(kind, settings, training):
    module = cell_module(kind, num_layers=1, **settings).train(training)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    outputs = []
    torch.manual_seed(1)
    for suffix in ["_l0", "_l0_reverse"] if module.bidirectional else ["_l0"]:
        of = {name.removesuffix(suffix): p for name, p in module.named_parameters() if name.endswith(suffix)}
        weights = [of.pop(f"{name}_{side}") for name in ("weight", "bias") for side in ("ih", "hh")]
        norms = ops.LayerNorms(**of) if of else None
        options = {"norms": norms, "zoneout": module.zoneout, "training": training}
        out = getattr(ops.reference, kind.lower())(x.flip(0) if "reverse" in suffix else x, *weights, **options)[0]
        outputs.append(out.flip(0) if "reverse" in suffix else out)
    torch.manual_seed(1)
    torch.testing.assert_close(module(x)[0], torch.cat(outputs, -1), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("settings", CELLS, ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_every_parameter_gets_a_gradient(kind, settings):
    module = cell_module(kind, **settings)
    module(torch.randn(4, 3, 5, dtype=torch.float64))[0].square().sum().backward()
    assert all(p.grad.any() and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_zoneout_draws_in_training_alone(kind):
    module = cell_module(kind, zoneout=True)
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    assert not torch.equal(module(x)[0], module(x)[0])
    module.eval()
    assert torch.equal(module(x)[0], module(x)[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_parameters_of_norms(kind):
    torch.manual_seed(3)
    plain = getattr(torch.nn, kind)(5, 6, 2, bidirectional=True)
    torch.manual_seed(3)
    module = getattr(nn, kind)(5, 6, 2, bidirectional=True, layer_norm=True)
    parts = ["gain_ih", "gain_hh", *(["gain_c", "bias_c"] if kind == "LSTM" else [])]
    suffixes = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    state = module.state_dict()
    assert set(state) == set(plain.state_dict()) | {part + suffix for part in parts for suffix in suffixes}
    assert all(torch.equal(state[name], part) for name, part in plain.state_dict().items())
    assert (state["gain_hh_l1"] == 1).all()
    assert state["gain_hh_l1"].shape == (len(plain.bias_hh_l1),)
    again = getattr(nn, kind)(5, 6, 2, bidirectional=True, layer_norm=True)
    again.load_state_dict(state)


@pytest.mark.abuse
def test_zoneout_that_is_no_probability_is_refused():
    with pytest.raises(ArgumentError, match=r"zoneout of c=1\.0: must be at least 0 and less than 1"):
        nn.LSTM(5, 6, zoneout=(0.0, 1.0))
    with pytest.raises(ArgumentError, match=r"zoneout=0\.1: must be the pair"):
        nn.LSTM(5, 6, zoneout=0.1)
    with pytest.raises(ArgumentError, match=r"zoneout of h=-1"):
        nn.GRU(5, 6, zoneout=-1)
