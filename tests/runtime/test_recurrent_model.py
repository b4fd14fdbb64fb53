"""The runtime's recurrent models against the torch model of the same checkpoint, through the step protocol of both."""

import gc
import weakref

import numpy as np
import pytest

from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.models import ModelConfig
from wordkiln.runtime import load_model
from wordkiln.runtime._recurrent_model import RecurrentModel
from wordkiln.runtime._weights import load_weights

torch = pytest.importorskip("torch")

CONFIGS = {
    "lstm": {"kind": "lstm", "num_hidden_layers": 2},
    "lstm-tied-projection": {"kind": "lstm", "embedding_size": 12, "tie_word_embeddings": True},
    "gru": {"kind": "gru", "num_hidden_layers": 2, "embedding_size": 20},
    "rnn": {"kind": "rnn", "num_hidden_layers": 3, "tie_word_embeddings": True},
}
VOCAB_SIZE = 50


@pytest.fixture(scope="module", params=CONFIGS)
def checkpoint(request, tmp_path_factory):
    from wordkiln.models import CausalLM

    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("checkpoint") / "model"
    config = ModelConfig(vocab_size=VOCAB_SIZE, hidden_size=32, eos_token_id=3, **CONFIGS[request.param])
    model = CausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            # The initial biases and norms are 0 and 1, which would hide a slip.
            weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def both(checkpoint):
    from wordkiln.models import CausalLM

    return load_model(checkpoint), CausalLM.from_pretrained(checkpoint)


def assert_close(ours, theirs):
    # Logits of size 1, through a few hundred float32 operations of relative error 6e-8 each, in another order.
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parity
def test_steps_are_those_of_the_torch_model(both):
    random = np.random.default_rng(1)
    # Longer than a chunk of prefill, as long, and shorter, in no order.
    prompts = [random.integers(0, VOCAB_SIZE, length).tolist() for length in (3, 300, 256, 1, 257)]
    states, logits = zip(*(model.begin(prompts) for model in both), strict=True)
    assert_close(*logits)
    for rows in (None, None, [4, 1, 0], None, [0, 0, 2, 1], None, None, [1], None):
        if rows is not None:
            states = [model.select(state, rows) for model, state in zip(both, states, strict=True)]
        assert len(states[0]) == len(states[1])
        ids = random.integers(0, VOCAB_SIZE, len(states[0]))
        assert_close(*(model.step(state, ids) for model, state in zip(both, states, strict=True)))


@pytest.mark.parity
def test_properties_are_those_of_the_torch_model(both):
    ours, theirs = both
    for name in ("vocab_size", "max_positions", "eos_token_id"):
        assert getattr(ours, name) == getattr(theirs, name)


def test_stepping_is_prefilling(both):
    model, _ = both
    ids = np.random.default_rng(2).integers(0, VOCAB_SIZE, 40).tolist()
    _, whole = model.begin([ids])
    state, logits = model.begin([ids[:1]])
    for token in ids[1:]:
        logits = model.step(state, np.array([token]))
    assert_close(logits, whole)


def test_an_embedding_that_is_the_output_layer_is_kept_once(checkpoint):
    config = ModelConfig.load(checkpoint)
    weights = load_weights(checkpoint, config)
    embedding = weakref.ref(weights["model.embed_tokens.weight"])
    model = RecurrentModel(config, weights)
    del weights
    gc.collect()
    assert (embedding() is None) == config.tie_word_embeddings
    assert np.isfinite(model.begin([[1, 2]])[1]).all()


def test_selected_rows_are_independent_of_the_old_state(both):
    model, _ = both
    state, _ = model.begin([[1, 2], [3]])
    other = model.select(state, [0])
    expected = model.step(model.select(state, [0]), [7])
    model.step(state, [5, 5])
    assert_close(model.step(other, [7]), expected)


@pytest.mark.parity
def test_joined_states_go_on_as_the_torch_models(both):
    random = np.random.default_rng(3)
    states = []
    for model in both:
        first, _ = model.begin([[1, 2, 3], [4]])
        for ids in ([5, 6], [7, 8]):
            model.step(first, ids)
        states.append(model.join([first, model.begin([[9] * 30])[0], model.begin([[3]])[0]]))
    for _ in range(3):
        assert len(states[0]) == 4
        ids = random.integers(0, VOCAB_SIZE, 4)
        assert_close(*(model.step(state, ids) for model, state in zip(both, states, strict=True)))
    states = [model.select(state, [2, 0]) for model, state in zip(both, states, strict=True)]
    assert_close(*(model.step(state, [1, 2]) for model, state in zip(both, states, strict=True)))


@pytest.mark.parity
def test_scores_are_those_of_the_torch_model(both):
    random = np.random.default_rng(4)
    rows = [random.integers(0, VOCAB_SIZE, length).tolist() for length in (2, 300, 1, 258)]
    ours, theirs = (model.score(rows) for model in both)
    assert [len(row) for row in ours] == [1, 299, 0, 257]
    for row, other in zip(ours, theirs, strict=True):
        assert_close(row, other)


@pytest.mark.abuse
def test_wrong_arguments_are_named(both):
    model, _ = both
    for prompts in ([], [[]], [[1], []], [[VOCAB_SIZE]], [[-1]], [[0.5]], [[[1]]], [["a"]], [[2**70]]):
        with pytest.raises(ArgumentError, match="prompts"):
            model.begin(prompts)
        with pytest.raises(ArgumentError, match="rows"):
            model.score(prompts)
    with pytest.raises(ArgumentError, match="states"):
        model.join([])
    state, _ = model.begin([[1], [2]])
    for ids in ([1], [1, 2, 3], [1, VOCAB_SIZE], [-1, 0], [0.5, 1]):
        with pytest.raises(ArgumentError, match="ids"):
            model.step(state, ids)
    for rows in ([], [2], [-1]):
        with pytest.raises(ArgumentError, match="rows"):
            model.select(state, rows)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_packed_dtypes_are_near_and_prompts_are_their_steps(both, checkpoint, dtype):
    model, (exact, _) = load_model(checkpoint, dtype), both
    random = np.random.default_rng(5)
    prompts = [random.integers(0, VOCAB_SIZE, length).tolist() for length in (3, 260, 1)]
    state, logits = model.begin(prompts)
    want_state, want = exact.begin(prompts)
    for _ in range(3):
        # Weights are rounded by up to 2^-8 of the largest of their row, in either direction.
        np.testing.assert_allclose(logits, want, rtol=0, atol=0.03 * np.abs(want).max())
        ids = random.integers(0, VOCAB_SIZE, 3)
        logits, want = model.step(state, ids), exact.step(want_state, ids)
    for row, prompt in enumerate(prompts):
        alone, last = model.begin([prompt[:1]])
        for id in prompt[1:]:
            last = model.step(alone, [id])
        assert_close(last, model.begin(prompts)[1][row : row + 1])
    for got, wanted in zip(model.score(prompts), exact.score(prompts), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=0.06 * np.abs(want).max())


@pytest.mark.abuse
def test_other_models_and_dtypes_are_named(checkpoint, tmp_path):
    with pytest.raises(ArgumentError, match="dtype='float16'"):
        load_model(checkpoint, "float16")
    ModelConfig(kind="transformer", vocab_size=8, hidden_size=8).save(tmp_path / "config.json")
    with pytest.raises(FormatError, match="kind='transformer'"):
        load_model(tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_read_as_their_float32_values(checkpoint, tmp_path, dtype):
    from safetensors.torch import load_file, save_file

    from wordkiln.models import CausalLM

    weights = {
        name: weight.to(getattr(torch, dtype)) for name, weight in load_file(checkpoint / "model.safetensors").items()
    }
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    prompts = [[1, 2, 3]]
    assert_close(load_model(tmp_path).begin(prompts)[1], CausalLM.from_pretrained(tmp_path).begin(prompts)[1])


@pytest.mark.abuse
def test_other_weights_are_refused(checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(PathError):
        load_model(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = (checkpoint / "model.safetensors").read_bytes()
    for content in (b"", whole[:7], whole[:100], whole[:-1], b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(FormatError):
            load_model(tmp_path)
    weights = load_file(checkpoint / "model.safetensors")
    name = "model.embed_tokens.weight"
    missing = {key: value for key, value in weights.items() if key != name}
    for wrong in (missing, weights | {"more": weights[name].clone()}, weights | {name: weights[name][:-1].clone()}):
        save_file(wrong, path)
        with pytest.raises(FormatError):
            load_model(tmp_path)
