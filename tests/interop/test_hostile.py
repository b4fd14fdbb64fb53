"""Files made to do harm: each is a named error, before memory is taken."""

import contextlib
import json
import os
import resource

import numpy as np
import pytest

from wordkiln.errors import FormatError, PathError, WordkilnError
from wordkiln.interop import open_model

pytestmark = [pytest.mark.abuse, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@pytest.fixture(autouse=True)
def _bounded_memory():
    """No file here is larger than a megabyte: one that asks for 4 GiB more than there is is let down by the system."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def refuse(path, match, kind=FormatError):
    with pytest.raises(kind, match=match):
        open_model(path)


def edit(path, **changes):
    """Set keys of a JSON file; None takes one out."""
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


HUGE = 2**62


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("llama", "vocab_size", HUGE, "vocab_size=.*from 1 to 16777216"),
        ("llama", "hidden_size", -1, "hidden_size=-1: must be an integer from 1 to 65536"),
        ("llama", "num_hidden_layers", 10**9, "num_hidden_layers=1000000000.*1024"),
        ("llama", "num_hidden_layers", 0, "num_hidden_layers=0"),
        ("llama", "num_hidden_layers", "3", "num_hidden_layers='3'"),
        ("llama", "num_hidden_layers", True, "num_hidden_layers=True"),
        ("llama", "num_attention_heads", 6.0, "num_attention_heads=6.0"),
        ("llama", "num_key_value_heads", 4, "num_key_value_heads=4: must divide"),
        ("llama", "head_dim", 7, "head_dim=7: must be even"),
        ("llama", "head_dim", [8], "head_dim="),
        ("llama", "intermediate_size", 2**30, "intermediate_size"),
        ("llama", "max_position_embeddings", HUGE, "max_position_embeddings"),
        ("llama", "rms_norm_eps", -1e-6, "rms_norm_eps"),
        ("llama", "rms_norm_eps", float("nan"), "NaN is no JSON number"),
        ("llama", "rms_norm_eps", float("inf"), "Infinity is no JSON number"),
        ("llama", "hidden_act", "relu", "hidden_act='relu': must be one of"),
        ("llama", "hidden_act", {}, "hidden_act="),
        ("llama", "attention_bias", "yes", "attention_bias='yes': must be true or false"),
        ("llama", "model_type", "mamba", "model_type='mamba': must be one of"),
        ("llama", "model_type", ["llama"], "model_type="),
        ("llama", "eos_token_id", 300, "eos_token_id=300: must be an integer from 0 to 299"),
        ("llama", "eos_token_id", list(range(100)), "100 ids: must be at most 64"),
        ("llama", "rope_parameters", {"rope_type": "longrope"}, "rope_type='longrope': must be one of"),
        ("llama", "rope_parameters", {"rope_type": "linear", "factor": 0}, "rope factor=0"),
        ("llama", "rope_parameters", {"rope_type": "linear"}, "rope factor=None"),
        ("llama", "rope_parameters", {"rope_theta": -1}, "rope_theta=-1"),
        ("llama", "rope_parameters", [1], "rope_parameters=.*must be an object"),
        ("llama", "rope_parameters", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ("llama", "rope_theta", 77, "rope_theta=77: another stands in"),
        ("llama", "rope_interleaved", True, "rope_interleaved=True: only False"),
        ("llama", "logit_scale", 0.1, "'logit_scale'=0.1: unknown key"),
        ("llama", "quantization_config", {"quant_method": "gptq"}, "quantization_config.*GGUF"),
        ("llama", "sliding_window", 4, "sliding_window=4"),
        ("mistral", "sliding_window", -4, "sliding_window=-4"),
        ("qwen2-window", "layer_types", ["full_attention"], "layer_types=.*list of 3"),
        ("qwen2-window", "layer_types", ["full_attention", "linear", [1]], "layer_types="),
        ("gpt2", "n_head", 5, "n_embd=48: must be a multiple of n_head=5"),
        ("gpt2", "n_embd", 2**40, "n_embd="),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", "activation_function", "relu", "activation_function='relu'"),
    ],
)
def test_a_config_is_refused(copy, name, field, value, message):
    directory = copy(name)
    edit(directory / "config.json", **{field: value})
    refuse(directory, message)


def test_a_number_of_thousands_of_digits_is_refused(copy):
    directory = copy()
    (directory / "config.json").write_text('{"model_type": "llama", "hidden_size": 1' + "0" * 5000 + "}")
    refuse(directory, "not valid JSON")


def test_a_config_of_too_many_weights_is_refused(copy):
    sizes = {"vocab_size": 2**24, "hidden_size": 2**16, "intermediate_size": 2**18, "head_dim": 64}
    directory = copy()
    edit(directory / "config.json", **sizes)
    refuse(directory, "weights: must be at most 17179869184")


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"])
def test_a_missing_size_is_named(copy, field):
    directory = copy()
    edit(directory / "config.json", **{field: None})
    refuse(directory, f"{field} is missing")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a": 1, "a": 2}', b" " * 2**26])
def test_json_is_read_strictly(copy, name, content):
    directory = copy()
    if name.endswith("index.json"):
        (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(content)
    refuse(directory, name.replace(".", r"\."))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1), ("temperature", "hot"), ("top_k", 2**70), ("top_p", 1.5), ("do_sample", 1)],
)
def test_recommended_settings_are_checked(copy, name, value):
    directory = copy()
    edit(directory / "generation_config.json", **{name: value})
    refuse(directory, f"generation_config.json.*{name}=")


# safetensors


def spoil(directory, change):
    """Rewrite the header of model.safetensors by `change(header)`, which may give other bytes."""
    path = directory / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    changed = change(header)
    text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def set_in(name, **values):
    return lambda header: header[name].update(values)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.pop(NORM) and None, "hole|truncated|overlap"),
        (set_in(NORM, shape=[49]), "model.norm.weight: data_offsets"),
        (set_in(NORM, shape=[24, 2]), "shape .24, 2., but the config asks for .48."),
        (set_in(NORM, shape=[-48]), "shape=.-48.: must be"),
        (set_in(NORM, shape=[2**62]), "shape="),
        (set_in(NORM, shape=[2**39, 2**39, 2**39]), "data_offsets"),
        (set_in(NORM, shape=[1] * 5000), "at most 8 sizes"),
        (set_in(NORM, shape=[True] * 48), "shape="),
        (set_in(NORM, shape="48"), "shape="),
        (set_in(NORM, dtype="F64"), "dtype F64: must be one of F32, F16, BF16"),
        (set_in(NORM, dtype="I8"), "dtype I8: must be one of F32, F16, BF16"),
        (set_in(NORM, dtype=["F32"]), "dtype="),
        (set_in(NORM, dtype="F16"), "F16 .48. takes 96 bytes"),
        (set_in(NORM, data_offsets=[0, 192]), "overlap"),
        (set_in(NORM, data_offsets=[2**40, 2**40 + 192]), "hole|overlap|data_offsets"),
        (set_in(NORM, data_offsets=[-192, 0]), "data_offsets"),
        (set_in(NORM, data_offsets=[192, 0]), "data_offsets"),
        (set_in(NORM, data_offsets=[2**100, 2**100 + 192]), "data_offsets"),
        (set_in(NORM, data_offsets=[0.0, 192.0]), "data_offsets"),
        (lambda header: header.update({"other": header.pop(NORM)}), "misses model.norm.weight"),
        (
            lambda header: header.update({"other": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
            "has extra other",
        ),
        (lambda header: header.update({NORM: 5}), "dtype=None"),
        (lambda header: b'{"a": {}, "a": {}}', "'a' stands twice"),
        (lambda header: b"[1]", "not a JSON object"),
        (lambda header: b"\xff", "not valid JSON"),
    ],
)
def test_a_header_is_refused(copy, change, message):
    directory = copy()
    spoil(directory, change)
    refuse(directory, message)


@pytest.mark.parametrize("content", [b"", b"\0" * 4, b"\xff" * 8, (2**63).to_bytes(8, "little") + b"{}", b"\x80\x04."])
def test_what_is_no_safetensors_file_is_refused(copy, content):
    directory = copy()
    (directory / "model.safetensors").write_bytes(content)
    refuse(directory, "truncated or no safetensors file")


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_file_of_another_length_is_refused(copy, extra):
    path = copy() / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:extra] if extra < 0 else content + b"\0")
    refuse(path.parent, "truncated or too long")


def test_a_file_that_changes_after_it_was_opened_is_noticed(copy):
    directory = copy()
    source = open_model(directory).source
    (directory / "model.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="has changed since it was opened"):
        source.read("norm.weight")


@pytest.mark.parametrize("padding", range(4))
def test_data_at_an_odd_byte_is_read_aligned(copy, padding):
    directory = copy()
    wanted = np.array(open_model(directory).source.read("layers.1.up.weight"))
    spoil(directory, lambda header: json.dumps(header).encode() + b" " * padding)
    array = open_model(directory).source.read("layers.1.up.weight")
    assert array.flags.aligned
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, wanted)


def test_a_pickle_is_refused_with_a_way_out(copy):
    directory = copy()
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    refuse(directory, r"pytorch_model\.bin, a pickle.*save_pretrained", PathError)


# Shards


@pytest.fixture
def sharded(make_tiny, tmp_path):
    import shutil

    directory = make_tiny("llama", max_shard_size="50KB").directory
    return shutil.copytree(directory, tmp_path / "sharded")


def point(directory, to):
    """Let the index name another file for all tensors of its last shard."""
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    last = max(index["weight_map"].values())
    index["weight_map"] = {name: to if file == last else file for name, file in index["weight_map"].items()}
    path.write_text(json.dumps(index))
    return directory / last


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "a\0.safetensors",
        "a\\b.safetensors",
        "a" * 5000 + ".safetensors",
        5,
        ["a"],
    ],
)
def test_a_shard_outside_of_the_directory_is_refused(sharded, name):
    shard = point(sharded, name)
    (sharded.parent / "outside.safetensors").write_bytes(shard.read_bytes())
    refuse(sharded, "must be")


def test_a_link_out_of_the_directory_is_refused(sharded):
    shard = point(sharded, "link.safetensors")
    outside = sharded.parent / "outside.safetensors"
    shard.rename(outside)
    (sharded / "link.safetensors").symlink_to(outside)
    refuse(sharded, "is a link out of the directory")


def test_hugging_faces_cache_of_links_opens(make_tiny, tmp_path):
    revision = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    revision.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(make_tiny("llama").directory.iterdir()):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (revision / file.name).symlink_to(f"../../blobs/{number}")
    assert open_model(revision).source.read("norm.weight").shape == (48,)


def test_a_pipe_is_not_waited_for(sharded):
    shard = point(sharded, "pipe.safetensors")
    shard.unlink()
    os.mkfifo(sharded / "pipe.safetensors")
    refuse(sharded, r"pipe\.safetensors: is no file", PathError)
    (sharded / "config.json").unlink()
    os.mkfifo(sharded / "config.json")
    refuse(sharded, r"holds neither config\.json", PathError)


def test_a_missing_shard_is_named(sharded):
    point(sharded, "model-9.safetensors")
    refuse(sharded, r"model-9\.safetensors: is missing", PathError)


def test_an_index_that_does_not_fit_the_shards_is_refused(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())["weight_map"]
    first, last = min(index.values()), max(index.values())
    path.write_text(json.dumps({"weight_map": dict.fromkeys(index, first)}))
    refuse(sharded, f"is not in {first}")
    path.write_text(json.dumps({"weight_map": {name: file for name, file in index.items() if name != NORM}}))
    refuse(sharded, f"does not name {NORM}")
    path.write_text(json.dumps({"weight_map": [first, last]}))
    refuse(sharded, "weight_map=")
    path.write_text(json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(2000)}}))
    refuse(sharded, "2000 files: must be at most 1024")


# The tokenizer


def test_a_tokenizer_of_another_model_is_refused(copy, small_tokenizer):
    directory = copy()
    texts = ["床前明月光,疑是地上霜。\n", "the quick brown fox jumps over the lazy dog\n"] * 3
    type(small_tokenizer).train(texts, vocab_size=301).save(directory)
    refuse(directory, "301 tokens, but the model's vocab_size is 300")
    (directory / "tokenizer.json").unlink()
    refuse(directory, "tokenizer.json", PathError)
    (directory / "tokenizer.json").write_bytes(b"{}")
    refuse(directory, "tokenizer.json")


def test_our_own_models_tell_their_tokenizer(copy):
    directory = copy()
    edit(directory / "config.json", tokenizer_fingerprint="0" * 64)
    refuse(directory, "the tokenizer is not that of this model")


@pytest.mark.parametrize("name", ["nothing", "empty", "file"])
def test_other_paths_are_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    refuse(tmp_path / name, name, PathError)


def test_no_bytes_crash_the_reader(copy):
    """Each byte of a small file's head, flipped: opened, or refused by name."""
    path = copy() / "model.safetensors"
    content = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    size = int.from_bytes(content[:8], "little") + 8
    for place in [*range(8), *random.integers(8, size, 200)]:
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(random.integers(8))
        path.write_bytes(spoilt)
        with contextlib.suppress(WordkilnError):
            open_model(path.parent).source.read("norm.weight")
