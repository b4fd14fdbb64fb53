import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordkiln.errors import ArgumentError, FormatError, PathError
from wordkiln.models import ModelConfig
from wordkiln.models.layout import count_parameters, parameter_shapes

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def test_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import wordkiln.models.config, wordkiln.models.layout, wordkiln.models.checkpoint\n"
        "from wordkiln.errors import DependencyError\n"
        "import wordkiln.models\n"
        "try: wordkiln.models.CausalLM\n"
        "except DependencyError as error: assert 'wordkiln[train]' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_round_trip_through_a_file(config, tmp_path):
    config.save(tmp_path)
    assert ModelConfig.load(tmp_path) == config
    assert ModelConfig.load(tmp_path / "config.json") == config
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_counts_without_building_every_shape(config):
    shapes = parameter_shapes(config)
    assert count_parameters(config) == config.num_parameters
    product = {1: lambda s: s[0], 2: lambda s: s[0] * s[1]}
    assert config.num_parameters == sum(product[len(shape)](shape) for shape in shapes.values())


def test_fills_in_defaults():
    config = ModelConfig(kind="transformer", vocab_size=10, hidden_size=192)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (3, 3, 64)
    assert (config.intermediate_size, config.max_position_embeddings) == (512, 2048)
    recurrent = ModelConfig(kind="gru", vocab_size=10, hidden_size=20)
    assert recurrent.embedding_size == 20
    assert recurrent.max_position_embeddings is None


def test_reads_hugging_face_defaults_and_extras():
    config = ModelConfig.from_dict(
        LLAMA
        | {
            "torch_dtype": "bfloat16",
            "transformers_version": "4.50.0",
            "use_cache": True,
            "attention_bias": False,
            "rope_scaling": None,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "head_dim": 16,
            "eos_token_id": [2],
            "bos_token_id": 1,
        }
    )
    assert (config.num_key_value_heads, config.rms_norm_eps, config.rope_theta) == (4, 1e-6, 10000.0)
    assert config.max_position_embeddings == 2048
    assert config.eos_token_id == 2
    assert not config.tie_word_embeddings


def test_reads_rope_parameters():
    config = ModelConfig.from_dict(LLAMA | {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})
    assert config.rope_theta == 5e5


BAD_FIELDS = [
    ({"kind": "mamba"}, "kind"),
    ({"kind": ["lstm"]}, "kind"),
    ({"vocab_size": 0}, "vocab_size"),
    ({"vocab_size": -5}, "vocab_size"),
    ({"vocab_size": 10**18}, "vocab_size"),
    ({"vocab_size": 10**10000}, "vocab_size"),
    ({"vocab_size": 1e3}, "vocab_size"),
    ({"vocab_size": True}, "vocab_size"),
    ({"vocab_size": None}, "vocab_size"),
    ({"hidden_size": "64"}, "hidden_size"),
    ({"hidden_size": 63}, "hidden_size"),
    ({"hidden_size": 66}, "num_attention_heads"),
    ({"hidden_size": 12, "num_attention_heads": 4}, "even head size"),
    ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
    ({"num_attention_heads": 0}, "num_attention_heads"),
    ({"num_key_value_heads": 3}, "num_key_value_heads"),
    ({"num_key_value_heads": 8}, "num_key_value_heads"),
    ({"embedding_size": 32}, "embedding_size"),
    ({"dropout": 1.0}, "dropout"),
    ({"dropout": -0.1}, "dropout"),
    ({"dropout": float("nan")}, "dropout"),
    ({"rope_theta": float("inf")}, "rope_theta"),
    ({"rope_theta": 10**400}, "rope_theta"),
    ({"rms_norm_eps": 0}, "rms_norm_eps"),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ({"eos_token_id": 100}, "eos_token_id"),
    ({"eos_token_id": -1}, "eos_token_id"),
    ({"vocab_size": 2**24, "hidden_size": 2**16, "num_attention_heads": 1024}, "parameters"),
]


@pytest.mark.abuse
@pytest.mark.parametrize(("fields", "named"), BAD_FIELDS, ids=[f"{name}-{i}" for i, (_, name) in enumerate(BAD_FIELDS)])
def test_refuses_bad_fields(fields, named):
    good = {"kind": "transformer", "vocab_size": 100, "hidden_size": 64, "num_attention_heads": 4}
    with pytest.raises(ArgumentError, match=named) as caught:
        ModelConfig(**(good | fields))
    assert len(str(caught.value)) < 300


@pytest.mark.abuse
def test_refuses_transformer_fields_for_a_recurrent_model():
    with pytest.raises(ArgumentError, match="num_attention_heads=4: only for kind='transformer'"):
        ModelConfig(kind="lstm", vocab_size=10, num_attention_heads=4)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "default", "factor": 8.0}}, "factor"),
        ({"rope_parameters": 3}, "rope_parameters"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "differ"),
        ({"sliding_window": 128}, "sliding_window"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"head_dim": 32}, "head_dim"),
        ({"residual_multiplier": 2.0}, "residual_multiplier"),
        ({"model_type": "gpt2"}, "model_type"),
        ({"model_type": 7}, "model_type"),
        ({"num_attention_heads": None}, "num_attention_heads"),
        ({"vocab_size": 1e18}, "vocab_size"),
        ({"hidden_size": "huge"}, "hidden_size"),
        ({"eos_token_id": [1, 2]}, "eos_token_id"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refuses_what_would_change_the_mathematics(extra, named):
    with pytest.raises(FormatError, match=named):
        ModelConfig.from_dict(LLAMA | extra)


@pytest.mark.abuse
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"vocab_size": NaN}',
        b'{"vocab_size": 1, "vocab_size": 2}',
        b'{"vocab_size": ' + b"9" * 10000 + b"}",
        b"[" * 200_000,
        b" " * (2**20 + 1),
    ],
    ids=["empty", "list", "cut", "no-utf8", "nan", "twice", "digits", "deep", "long"],
)
def test_refuses_files_that_are_no_config(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(FormatError, match=r"config\.json"):
        ModelConfig.load(tmp_path)


@pytest.mark.abuse
def test_a_missing_file_is_a_path_error(tmp_path):
    with pytest.raises(PathError, match=r"config\.json"):
        ModelConfig.load(tmp_path)
    with pytest.raises(PathError, match="nowhere"):
        ModelConfig.load(tmp_path / "nowhere")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.property
@settings(deadline=None)
@given(key=st.sampled_from(sorted(set(LLAMA) | {"head_dim", "rope_theta", "dropout", "rope_parameters"})), value=JSON)
def test_any_value_gives_a_config_or_a_named_error(key, value):
    try:
        config = ModelConfig.from_dict(LLAMA | {key: value})
    except FormatError:
        return
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
