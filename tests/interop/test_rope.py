"""Scaled rotary angles: transformers' for any parameters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordkiln.interop._rope import rope

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.parity, pytest.mark.property]

POSITIONS = 4096
BASE = {"rope_theta": st.floats(2, 1e7), "factor": st.floats(1, 64)}
KINDS = {
    "default": {"rope_theta": st.floats(1, 1e7)},
    "linear": BASE,
    "llama3": BASE
    | {
        "low_freq_factor": st.floats(0.5, 2),
        "high_freq_factor": st.floats(2.5, 8),
        "original_max_position_embeddings": st.integers(16, POSITIONS),
    },
    "yarn": BASE
    | {"original_max_position_embeddings": st.integers(16, POSITIONS)}
    | {"beta_fast": st.floats(8, 64), "beta_slow": st.floats(0.5, 4), "truncate": st.booleans()}
    | {"mscale": st.sampled_from([None, 0.7]), "mscale_all_dim": st.sampled_from([None, 1.1])}
    | {"attention_factor": st.sampled_from([None, 1.3])},
}


def strategy(kind):
    return st.tuples(st.fixed_dictionaries(KINDS[kind]), st.sampled_from([4, 16, 64]))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_the_angles_are_transformers(kind, data):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters, head_dim = data.draw(strategy(kind))
    parameters = {"rope_type": kind} | {name: value for name, value in parameters.items() if value is not None}
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=POSITIONS,
        rope_parameters=dict(parameters),
    )
    ours = rope(parameters, head_dim, POSITIONS)
    if kind == "default":
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        theirs, factor = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        theirs, factor = ROPE_INIT_FUNCTIONS[kind](config)
    # Theirs are float32: powers and quotients of it, each within a few of its last places.
    assert ours.frequencies == pytest.approx(theirs.double().tolist(), rel=3e-6)
    assert ours.attention_factor == pytest.approx(factor, rel=1e-6)
