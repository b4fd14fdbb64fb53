"""`DecoderModel` against the plain definition, and its promises: what a row gets does not depend on anything else."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.runtime import DecoderModel, reference

PROBE = Path(__file__).with_name("decoders.py")
_spec = importlib.util.spec_from_file_location("decoders", PROBE)
decoders = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(decoders)
ARCHITECTURES, VOCAB, Arrays, texts = decoders.ARCHITECTURES, decoders.VOCAB, decoders.Arrays, decoders.texts
DTYPES = ("float32", "bfloat16", "int8")
PAGE = _kernels.DECODER_PAGE_KEYS

_models = {}


def model(name="llama", dtype="float32"):
    if (name, dtype) not in _models:
        _models[name, dtype] = decoders.model(name, dtype)
    return _models[name, dtype]


def stored(array, dtype):
    """A matrix as the runtime keeps it (docs/runtime.md)."""
    if array.ndim == 1 or dtype == "float32":
        return array
    if dtype == "bfloat16":
        bits = array.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    rounded = np.empty_like(array)
    for start in range(0, array.shape[1], 64):
        group = array[:, start : start + 64]
        scale = np.abs(group).max(1, keepdims=True) / np.float32(127)
        rounded[:, start : start + 64] = np.rint(group * (1 / np.where(scale > 0, scale, 1))) * scale
    return rounded


def exact(name, dtype, ids):
    arrays = decoders.source(name).arrays
    kept = {key: value if key == "positions.weight" else stored(value, dtype) for key, value in arrays.items()}
    return reference.logits(ARCHITECTURES[name], Arrays(kept), ids)


# Of the size of the largest logit. float32: some hundred roundings, which these random layers enlarge up to 1e-5. Else
# the cache's roundings, and those of the inputs (and int8 weights) where the tile unit computes, each 2^-9; up to 0.05.
TOLERANCES = {"float32": 3e-5, "bfloat16": 0.08, "int8": 0.08}


def assert_near(got, want, dtype):
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCES[dtype] * np.abs(want).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_prompts_and_steps_are_the_definition_s(name, dtype):
    prompts = texts(1, 5, 63, 64, 65, 140)
    state, logits = model(name, dtype).begin(prompts)
    for step in range(3):
        for row, prompt in enumerate(prompts):
            assert_near(logits[row], exact(name, dtype, prompt)[-1], dtype)
        ids = texts(len(prompts), seed=step)[0]
        logits = model(name, dtype).step(state, ids)
        prompts = [[*prompt, id] for prompt, id in zip(prompts, ids, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["llama", "window"])
def test_texts_longer_than_a_call(name, dtype):
    (text,) = texts(690)
    want = exact(name, dtype, text)
    assert_near(model(name, dtype).begin([text])[1][0], want[-1], dtype)
    (scores,) = model(name, dtype).score([text])
    shares = want - np.log(np.exp(want - want.max(1, keepdims=True)).sum(1, keepdims=True)) - want.max(1, keepdims=True)
    # A log-probability is the difference of two values as large as the largest logit.
    limit = 2 * TOLERANCES[dtype] * np.abs(want).max()
    np.testing.assert_allclose(scores, shares[np.arange(689), text[1:]], rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_row_does_not_depend_on_the_others(name, dtype):
    prompts = texts(3, 70, 1, 129, 20, 64, 500, 17, 18)
    ids = texts(len(prompts))[0]
    together, logits = decoders.model(name, dtype).begin(prompts)
    stepped = decoders.model(name, dtype)
    after = model(name, dtype).begin(prompts)
    all_after = model(name, dtype).step(after[0], ids)
    for row, prompt in enumerate(prompts):
        state, alone = stepped.begin([prompt])
        assert np.array_equal(alone[0], logits[row])
        assert np.array_equal(stepped.step(state, ids[row : row + 1])[0], all_after[row])
    assert len(together) == len(prompts)


@pytest.mark.parametrize(("begun", "length"), [(1, 80), (250, 262), (508, 518)])  # 256 keys are a part of attention's
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stepping_is_reading(name, begun, length):
    """With float32 weights bit for bit; with others the tile unit may round a prompt's inputs."""
    (text,) = texts(length)
    whole = model(name).begin([text])[1]
    state, logits = model(name).begin([text[:begun]])
    for id in text[begun:]:
        logits = model(name).step(state, [id])
    assert np.array_equal(logits, whole)


def test_the_number_of_threads_changes_nothing():
    before = _kernels.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5):
            _kernels.set_num_threads(threads)
            for name in ("llama", "wide", "window"):
                decoder = decoders.model(name)
                for prompts in (texts(100, 7), texts(100, 7, 600)):  # the last one's keys are cut over the threads
                    state, logits = decoder.begin(prompts)
                    found.append(np.concatenate([logits, decoder.step(state, range(len(prompts)))]))
    finally:
        _kernels.set_num_threads(before)
    for i, result in enumerate(found):
        assert np.array_equal(result, found[i % 6])


@pytest.mark.parametrize("dtype", DTYPES)
def test_selected_rows_go_on_by_themselves(dtype):
    decoder = model("llama", dtype)
    state, _ = decoder.begin(texts(10, 64, 100))
    beams = decoder.select(state, [2, 2, 0, 1, 2])
    expected = decoders.model("llama", dtype)
    for ids in ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [9, 9, 9, 9, 9]):
        got = decoder.step(beams, ids)
        rows = beams_of(expected, ids, dtype)
        assert np.array_equal(got, rows)
    # The state they came from has not moved.
    assert np.array_equal(
        decoder.step(state, [7, 7, 7]), expected.step(expected.begin(texts(10, 64, 100))[0], [7, 7, 7])
    )


_written = {}


def beams_of(decoder, ids, dtype):
    """The same rows without select: each prompt read for each row."""
    written = _written.setdefault(dtype, [[], [], [], [], []])
    prompts = [texts(10, 64, 100)[row] for row in (2, 2, 0, 1, 2)]
    state, _ = decoder.begin(prompts)
    for step in range(len(written[0])):
        decoder.step(state, [row[step] for row in written])
    for row, id in zip(written, ids, strict=True):
        row.append(id)
    return decoder.step(state, ids)


def test_joined_rows_go_on_together():
    decoder = model()
    first, second = decoder.begin(texts(10, 130))[0], decoder.begin(texts(64, seed=1))[0]
    decoder.step(second, [4])
    joined = decoder.join([first, second])
    assert len(joined) == 3
    got = decoder.step(joined, [1, 2, 3])
    want = decoder.step(decoder.begin([*texts(10, 130), texts(64, seed=1)[0] + [4]])[0], [1, 2, 3])
    assert np.array_equal(got, want)


def test_a_beginning_that_was_read_before_is_found_again(monkeypatch):
    decoder = decoders.model("llama")
    read = []
    run = DecoderModel._run
    monkeypatch.setattr(DecoderModel, "_run", lambda self, table, ids, *rest, **more: (
        read.append(len(ids)), run(self, table, ids, *rest, **more)
    ))  # fmt: skip
    (text,) = texts(200)
    state, logits = decoder.begin([text])
    assert np.array_equal(decoder.begin([text])[1], logits)  # while the first one lives
    for id in range(PAGE):
        decoder.step(state, [id])
    del state
    longer = text + list(range(PAGE)) + [1, 2, 3]
    fresh = decoders.model("llama").begin([longer])[1]
    read.clear()
    assert np.array_equal(decoder.begin([longer])[1], fresh)
    assert read == [len(longer) - (200 + PAGE) // PAGE * PAGE]
    read.clear()
    assert np.array_equal(decoder.begin([text[:PAGE]])[1], decoders.model("llama").begin([text[:PAGE]])[1])
    assert read[0] == PAGE  # the last id has to be read: its logits are wanted


def test_pages_are_used_again():
    decoder = decoders.model("llama")
    for seed in range(20):
        state, _ = decoder.begin(texts(200, 100, seed=seed))
        for id in range(30):
            decoder.step(state, [id, id])
            state = decoder.select(state, [1, 0])
        del state
        if seed == 0:
            most = decoder.nbytes
    assert decoder.nbytes == most


def test_properties():
    decoder = model()
    assert (decoder.vocab_size, decoder.max_positions, decoder.eos_token_id) == (VOCAB, 700, 3)
    sizes = [model("wide", dtype).nbytes - model("wide", dtype)._pool.nbytes for dtype in DTYPES]
    assert sizes[0] > 1.9 * sizes[1] > 1.5 * sizes[2]


@pytest.fixture(scope="module")
def of_each_isa(tmp_path_factory):
    loaded = {}
    for isa in _kernels.available_isas():
        path = tmp_path_factory.mktemp("isa") / f"{isa}.npz"
        subprocess.run([sys.executable, PROBE, path], env=os.environ | {"WORDKILN_ISA": isa}, check=True, timeout=120)
        with np.load(path) as file:
            loaded[isa] = dict(file)
    return loaded


def test_instruction_sets_agree(of_each_isa):
    baseline = of_each_isa["baseline"]
    for isa, results in of_each_isa.items():
        for name, got in results.items():
            limit = 2 * TOLERANCES[name.split()[1]] * np.abs(baseline[name]).max()
            np.testing.assert_allclose(got, baseline[name], rtol=0, atol=limit, err_msg=f"{isa} {name}")


@pytest.mark.abuse
def test_wrong_arguments_are_named():
    decoder = model()
    for prompts in ([], [[]], [[1], []], [[VOCAB]], [[-1]], [[0.5]], [[[1]]], [["a"]], [[2**70]], [[1] * 701]):
        with pytest.raises(ArgumentError, match="prompts"):
            decoder.begin(prompts)
        with pytest.raises(ArgumentError, match="rows"):
            decoder.score(prompts)
    state, _ = decoder.begin([[1], [2]])
    for ids in ([1], [1, 2, 3], [1, VOCAB], [-1, 0], [0.5, 1]):
        with pytest.raises(ArgumentError, match="ids"):
            decoder.step(state, ids)
    for rows in ([], [2], [-1]):
        with pytest.raises(ArgumentError, match="rows"):
            decoder.select(state, rows)
    for states in ([], [state, decoders.model("llama").begin([[1]])[0]]):
        with pytest.raises(ArgumentError, match="states"):
            decoder.join(states)
    other = decoders.model("llama").begin([[1], [2]])[0]
    for use in (lambda: decoder.step(other, [1, 2]), lambda: decoder.select(other, [0])):
        with pytest.raises(ArgumentError, match="state: is another model's"):
            use()
    with pytest.raises(ArgumentError, match="dtype='float16'"):
        DecoderModel(decoder.architecture, decoders.source("llama"), "float16")
    assert np.array_equal(decoder.step(state, [3, 4]), decoder.step(decoder.begin([[1], [2]])[0], [3, 4]))


@pytest.mark.abuse
def test_a_full_row_is_named():
    decoder = model()
    state, _ = decoder.begin(texts(3, 700))
    with pytest.raises(ArgumentError, match="row 1: is max_positions=700 ids long"):
        decoder.step(state, [1, 1])


@pytest.mark.abuse
@pytest.mark.parametrize("name", ["layers.1.gate.weight", "layers.2.v.weight", "embed.weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_refuses_what_it_cannot_hold(name, value):
    arrays = decoders.source("llama").arrays
    arrays[name] = arrays[name].copy()
    arrays[name][3, 4] = value
    with pytest.raises(ArgumentError, match="must be finite to be stored as int8"):
        DecoderModel(ARCHITECTURES["llama"], Arrays(arrays), "int8")
    for dtype in ("float32", "bfloat16"):
        _, logits = DecoderModel(ARCHITECTURES["llama"], Arrays(arrays), dtype).begin([[1, 0, 3]])
        assert not np.isfinite(logits).all()


@pytest.mark.abuse
def test_the_binding_checks_what_would_be_read():
    native = model()._native
    good = {"ids": [1, 2], "offsets": [0, 2], "starts": [0], "pages": [1], "wanted": [1], "targets": [0]}
    wrong = [
        ("ids", [1, VOCAB]), ("ids", [-1, 0]), ("offsets", [1, 2]), ("offsets", [0, -1]), ("starts", [-1]),
        ("starts", [699]), ("starts", [63]), ("wanted", [2]), ("wanted", [-1]), ("targets", [VOCAB]),
    ]  # fmt: skip
    for name, values in wrong:
        arrays = {key: np.array(value, np.int64) for key, value in (good | {name: values}).items()}
        at = {key: array.ctypes.data for key, array in arrays.items()}
        with pytest.raises(ArgumentError, match="must" if name != "starts" else "pages_per_row|starts"):
            native.run(
                at["ids"], at["offsets"], at["starts"], 1, at["pages"], 1, True, at["wanted"], 1, 0, at["targets"], 8
            )
