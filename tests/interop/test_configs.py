"""config.json as published models have it, and what it means."""

import math

import pytest

from wordkiln.interop._hf_config import describe

pytestmark = pytest.mark.golden

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
    "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
    "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
    "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 49152,
}  # fmt: skip
LLAMA_3_2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False,
    "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
MISTRAL_V03 = {
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.42.0.dev0", "use_cache": True,
    "vocab_size": 32768,
}  # fmt: skip
QWEN2_5 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
    "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_mrope": False,
    "transformers_version": "4.43.1", "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip
GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 50257,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "shape", "extra"),
    [
        (SMOLLM2, (9, 3, 64, 1e-5, (2,)), (set(), True)),
        (LLAMA_3_2, (32, 8, 64, 1e-5, (128001, 128008, 128009)), (set(), True)),
        (MISTRAL_V03, (32, 8, 128, 1e-5, (2,)), (set(), False)),
        (QWEN2_5, (14, 2, 64, 1e-6, (151645,)), ({"q", "k", "v"}, True)),
        (QWEN3, (16, 8, 128, 1e-6, (151645,)), (set(), True)),
        (GPT2, (12, 12, 64, 1e-5, (50256,)), ({"q", "k", "v", "o", "up", "down"}, True)),
    ],
    ids=["smollm2", "llama-3.2", "mistral-v0.3", "qwen2.5", "qwen3", "gpt2"],
)
def test_published_configs_are_understood(config, shape, extra):
    description = describe(config)
    ours = description.architecture
    assert (ours.num_heads, ours.num_kv_heads, ours.head_dim, ours.norm_eps, ours.eos_token_ids) == shape
    assert (set(description.biases), description.tied) == extra
    assert set(ours.windows) == {None}


def test_mistrals_window_is_4096_where_the_file_is_silent():
    silent = {key: value for key, value in MISTRAL_V03.items() if key != "sliding_window"}
    assert set(describe(silent).architecture.windows) == {4096}


def test_llama_3s_angles():
    """Of 32 the fast ones stay, the slow ones are a 32nd, by the lengths of the turns: 8192 / 4 and 8192 / 1."""
    scaled = describe(LLAMA_3_2).architecture.rope_frequencies
    plain = [500000.0 ** -(index / 32) for index in range(32)]
    for ours, before in zip(scaled, plain, strict=True):
        length = 2 * math.pi / before
        if length < 8192 / 4:
            assert ours == before
        elif length > 8192:
            assert ours == pytest.approx(before / 32)
        else:
            assert before / 32 < ours < before


def test_yarns_angles():
    """Worked out for heads of 4 and theta 10000, whose elements turn by 1 and 0.01 per position.

    Where the text had 640 positions, element 4 ln(640 / (t 2 pi)) / (2 ln 10000) turns t times: 0.25 for t = 32, 1.004
    for t = 1. So the ramp goes from 0 to 2, and element 1 is half way to an eighth.
    """
    yarn = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 640, "beta_fast": 32, "beta_slow": 1}
    description = describe(SMOLLM2 | {"hidden_size": 36, "rope_theta": 10000.0, "rope_scaling": yarn})
    assert description.architecture.rope_frequencies == pytest.approx((1.0, (0.01 + 0.01 / 8) / 2))
    assert description.attention_factor == pytest.approx(0.1 * math.log(8) + 1)
