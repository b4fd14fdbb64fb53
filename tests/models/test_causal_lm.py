import math

import pytest
import torch
from torch.nn import functional as F

from wordkiln.errors import ArgumentError
from wordkiln.models import CausalLM, ModelConfig, detach_state
from wordkiln.models.layout import parameter_shapes
from wordkiln.models.state import KeyValueCache

# Two orders of summing some tens of float32 products differ by a few units in the last place of numbers near 1.
TOLERANCE = {"atol": 2e-6, "rtol": 1e-5}


def random_ids(config, *shape):
    return torch.randint(0, config.vocab_size, shape, generator=torch.Generator().manual_seed(1))


def test_state_dict_is_the_layout(model):
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert shapes == parameter_shapes(model.config)
    assert model.num_parameters() == model.config.num_parameters


def test_counts_trainable_parameters(model):
    model.model.embed_tokens.weight.requires_grad_(False)
    embedding = model.config.vocab_size * model.config.embedding_size
    assert model.num_parameters(trainable_only=True) == model.num_parameters() - embedding


def test_logits_are_hidden_times_output_weight(model):
    ids = random_ids(model.config, 2, 5)
    hidden, _ = model.hidden(ids)
    logits, _ = model(ids)
    assert logits.shape == (2, 5, model.config.vocab_size)
    torch.testing.assert_close(logits, hidden @ model.output_weight.T, **TOLERANCE)


def test_a_tied_weight_is_shared(model):
    tied = model.output_weight is model.model.embed_tokens.weight
    assert tied == model.config.tie_word_embeddings
    assert ("lm_head.weight" in model.state_dict()) != tied


@pytest.mark.parametrize("cuts", [[3, 4, 5], [1] * 12, [11, 1]], ids=str)
def test_pieces_with_state_give_the_whole(model, cuts):
    ids = random_ids(model.config, 3, 12)
    whole, _ = model(ids)
    state, pieces = None, []
    for piece in ids.split(cuts, 1):
        logits, state = model(piece, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **TOLERANCE)


def test_forward_leaves_its_state_as_it_is(model):
    ids = random_ids(model.config, 2, 9)
    _, state = model(ids[:, :4])
    first, _ = model(ids[:, 4:], state)
    model(ids.flip(1)[:, :5], state)
    again, _ = model(ids[:, 4:], state)
    assert torch.equal(first, again)


def test_forward_copies_a_cache_that_has_room():
    model = CausalLM(ModelConfig(kind="transformer", vocab_size=37, hidden_size=32)).eval()
    ids = random_ids(model.config, 2, 6)
    with torch.no_grad():
        _, state = model(ids)
        layers = tuple((F.pad(k, (0, 0, 0, 0, 0, 5)), F.pad(v, (0, 0, 0, 0, 0, 5))) for k, v in state.layers)
        roomy = KeyValueCache(layers, state.lengths)
        model(ids[:, :2], roomy)
    assert not any(part[:, 6:].any() for layer in layers for part in layer)


def test_gradient_flows_through_state_until_it_is_detached(model):
    ids = random_ids(model.config, 2, 8)
    whole_loss = model(ids)[0][:, 4:].square().mean()
    (expected,) = torch.autograd.grad(whole_loss, model.model.embed_tokens.weight)
    _, state = model(ids[:, :4])
    (through,) = torch.autograd.grad(model(ids[:, 4:], state)[0].square().mean(), model.model.embed_tokens.weight)
    torch.testing.assert_close(through, expected, atol=2e-6, rtol=1e-4)
    cut, _ = model(ids[:, 4:], detach_state(model(ids[:, :4])[1]))
    (without,) = torch.autograd.grad(cut.square().mean(), model.model.embed_tokens.weight)
    assert not torch.allclose(without, expected, atol=2e-6, rtol=1e-4)


def test_gradient_reaches_every_parameter(model):
    model.train()
    ids = random_ids(model.config, 2, 6)
    F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten()).backward()
    dead = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not dead


def test_learns_a_sentence_by_heart(model):
    model.train()
    ids = random_ids(model.config, 1, 9)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    loss = torch.tensor(math.inf)
    steps = 0
    while loss.item() > 0.05 and steps < 200:  # a random guess has ln 37 = 3.6
        steps += 1
        loss = F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() <= 0.05


def test_starts_near_the_uniform_distribution(model):
    ids = random_ids(model.config, 4, 12)
    loss = F.cross_entropy(model(ids[:, :-1])[0].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - math.log(model.config.vocab_size)) < 0.3


def test_dropout_acts_in_training_only():
    for kind in ("lstm", "transformer"):
        model = CausalLM(ModelConfig(kind=kind, vocab_size=10, hidden_size=16, dropout=0.5))
        ids = random_ids(model.config, 2, 5)
        assert not torch.equal(model(ids)[0], model(ids)[0])
        model.eval()
        assert torch.equal(model(ids)[0], model(ids)[0])


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("layers", [1, 3])
def test_recurrent_models_are_torchs(kind, layers):
    torch.manual_seed(2)
    config = ModelConfig(kind=kind, vocab_size=20, hidden_size=24, embedding_size=16, num_hidden_layers=layers)
    model = CausalLM(config).eval()
    peer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[kind](16, 24, layers, batch_first=True)
    peer.load_state_dict(model.model.rnn.state_dict())
    ids = random_ids(config, 3, 7)
    output, last = peer(F.embedding(ids, model.model.embed_tokens.weight))
    logits, state = model(ids)
    torch.testing.assert_close(logits, output @ model.lm_head.weight.T, **TOLERANCE)
    for ours, theirs in zip(state, last if kind == "lstm" else (last,), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


def test_forget_gates_start_open():
    rnn = CausalLM(ModelConfig(kind="lstm", vocab_size=10, hidden_size=8)).model.rnn
    assert torch.equal((rnn.bias_ih_l1 + rnn.bias_hh_l1)[8:16], torch.ones(8))


@pytest.mark.abuse
def test_refuses_ids_that_do_not_fit(model):
    good = random_ids(model.config, 2, 3)
    for ids, named in [
        (good.float(), "int64"),
        (good[0], r"\[B, T\]"),
        (good[:, :0], r"\[B, T\]"),
        (good + 100, "must be 0 to 36"),
        (good - 100, "must be 0 to 36"),
        ([[1, 2]], "not list"),
    ]:
        with pytest.raises(ArgumentError, match=named):
            model(ids)
    with pytest.raises(ArgumentError, match="has 2 rows"):
        model(good[:1], model(good)[1])


@pytest.mark.abuse
def test_refuses_the_state_of_another_kind(model):
    ids = random_ids(model.config, 2, 3)
    part = torch.zeros(2, 2, 24)
    foreign = (part, part, part) if model.config.is_recurrent else (part, part)
    with pytest.raises(ArgumentError, match="state"):
        model(ids, foreign)
    if model.config.is_recurrent:
        with pytest.raises(ArgumentError, match="state"):
            model(ids, KeyValueCache((), (3, 3)))


@pytest.mark.abuse
def test_a_transformer_stops_at_its_last_position():
    model = CausalLM(ModelConfig(kind="transformer", vocab_size=10, hidden_size=16, max_position_embeddings=8))
    _, state = model(random_ids(model.config, 1, 8))
    with pytest.raises(ArgumentError, match="max_position_embeddings=8"):
        model(random_ids(model.config, 1, 1), state)
    with pytest.raises(ArgumentError, match="max_position_embeddings=8"):
        model(random_ids(model.config, 1, 9))
