"""Every kind of model: tensors against the torch state dict, logits of the plain definition against transformers'."""

import json

import numpy as np
import pytest

from wordkiln.interop import open_model
from wordkiln.runtime import reference

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

# Logits are near 10; transformers computes them in float32, whose error here is below 1e-5 of that.
TOLERANCE = {"atol": 1e-4, "rtol": 0}
IDS = np.random.default_rng(1).integers(0, 300, 40).tolist()

IDS_OF_SMOLLM2 = [504, 3575, 282, 4649, 314, 7042, 28, 284, 216, 34, 1232, 216, 34, 446, 216, 36, 30, 198]

HF = {"q": "self_attn.q_proj", "down": "mlp.down_proj", "attention_norm": "input_layernorm", "gate": "mlp.gate_proj"}


def state_of(tiny):
    return {name: weight.detach().numpy() for name, weight in tiny.model.state_dict().items()}


def test_the_plain_definition_gives_transformers_logits(tiny):
    opened = open_model(tiny.directory)
    wanted = tiny.logits(IDS)
    assert wanted.std() > 1
    assert opened.num_parameters == tiny.model.num_parameters()
    np.testing.assert_allclose(reference.logits(opened.architecture, opened.source, IDS), wanted, **TOLERANCE)


def test_the_tensors_are_those_of_the_state_dict(make_tiny):
    tiny = make_tiny("llama")
    source, state = open_model(tiny.directory).source, state_of(tiny)
    assert len(source.names()) == len(state)
    for ours, theirs in HF.items():
        array = source.read(f"layers.1.{ours}.weight")
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, state[f"model.layers.1.{theirs}.weight"])
    np.testing.assert_array_equal(source.read("head.weight"), state["lm_head.weight"])


def test_fused_and_transposed_tensors_are_taken_apart(make_tiny):
    tiny = make_tiny("gpt2")
    source, state = open_model(tiny.directory).source, state_of(tiny)
    for place, part in enumerate("qkv"):
        outputs = slice(48 * place, 48 * place + 48)
        weight, bias = source.read(f"layers.1.{part}.weight"), source.read(f"layers.1.{part}.bias")
        assert weight.flags.c_contiguous
        np.testing.assert_array_equal(weight, state["transformer.h.1.attn.c_attn.weight"].T[outputs])
        np.testing.assert_array_equal(bias, state["transformer.h.1.attn.c_attn.bias"][outputs])
    assert "head.weight" not in source.names()


def test_the_architecture_says_what_the_config_says(make_tiny):
    mistral = open_model(make_tiny("mistral").directory).architecture
    assert (mistral.windows, mistral.num_kv_heads, mistral.head_dim) == ((5, 5, 5), 2, 8)
    assert open_model(make_tiny("qwen2-window").directory).architecture.windows == (None, 5, 5)
    assert open_model(make_tiny("qwen2").directory).architecture.windows == (None,) * 3
    gpt2 = open_model(make_tiny("gpt2").directory).architecture
    assert (gpt2.rope_frequencies, gpt2.norm, gpt2.activation, gpt2.gated) == (None, "layer", "gelu_tanh", False)
    assert gpt2.eos_token_ids == (3,)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_shards_are_one_model(make_tiny, name):
    whole, sharded = make_tiny(name), make_tiny(name, max_shard_size="50KB")
    assert len(list(sharded.directory.glob("*.safetensors"))) > 2
    one, other = open_model(whole.directory).source, open_model(sharded.directory).source
    assert one.names() == other.names()
    for tensor in one.names():
        np.testing.assert_array_equal(one.read(tensor), other.read(tensor))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_becomes_float32(make_tiny, dtype):
    torch = pytest.importorskip("torch")
    tiny = make_tiny("llama", dtype=getattr(torch, dtype))
    source, state = open_model(tiny.directory).source, state_of(tiny)
    for ours, theirs in (("embed", "model.embed_tokens"), ("layers.2.q", "model.layers.2.self_attn.q_proj")):
        np.testing.assert_array_equal(source.read(f"{ours}.weight"), state[f"{theirs}.weight"])


def test_older_configs_say_the_same(copy):
    """Before version 5 the base of the angles stood outside, and the kind of scaling was called type."""
    directory = copy("llama-3.1")
    before = open_model(directory).architecture
    config = json.loads((directory / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    (directory / "config.json").write_text(json.dumps(config))
    assert open_model(directory).architecture == before


@pytest.mark.slow
def test_smollm2s_logits_are_transformers(smollm2):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    pytest.importorskip("gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    opened = open_model(smollm2)
    ids = opened.tokenizer.encode("The capital of France is Paris, and 2 + 2 = 4.\n")
    # transformers.AutoTokenizer's (5.23), which takes another ten seconds to read the file.
    assert ids == IDS_OF_SMOLLM2
    with torch.no_grad():
        wanted = theirs.eval()(torch.tensor([ids])).logits[0].double().numpy()
    np.testing.assert_allclose(reference.logits(opened.architecture, opened.source, ids), wanted, **TOLERANCE)
    assert opened.architecture.eos_token_ids == (2,)
    assert not opened.add_bos
    assert opened.unused_ids == ()
    assert "<|im_start|>" in opened.chat_template
