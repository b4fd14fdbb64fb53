"""The GPU kernels' PTX, as nvcc left it in the built `_cuda`, in an interpreter against `ops.reference`."""

import os
from pathlib import Path

import pytest
import test_attention_decode as decode
import test_cross_entropy
import test_recurrent
import test_recurrent_cell
import torch
from attention_cases import CHANGES, assert_matches
from conftest import ROOT
from ladder import toolkit
from ladder.runner import PtxRunner
from test_attention_backward import assert_gradients_match

# (B, H, Hkv, S, K, D): small, with cut tiles, grouped heads and a second tile of keys.
SHAPES = [(1, 2, 1, 5, 70, 32), (1, 1, 1, 20, 3, 64), (1, 1, 1, 18, 66, 128), (1, 1, 1, 17, 65, 256)]


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    module = os.environ.get("WORDKILN_CUDA_MODULE")  # set by `make cuda-check`, which has built it
    if module is None:
        pytest.skip("needs the built _cuda: make cuda-check")
    return PtxRunner(toolkit.extract(Path(module), "ptx", ROOT / "target" / "cuda-ladder" / "ptx"))


@pytest.fixture(params=[{}, {"early": True, "warp_ahead": True}], ids=["together", "warp_ahead"])
def ptx(simt, runner, request):
    """`_simt`, whose launches the interpreter runs; copies land late or early, warps run together or one ahead."""
    runner.schedule = request.param
    runner.launched.clear()
    simt.run_launches(runner)
    yield simt
    simt.run_launches(None)
    assert runner.launched


@pytest.mark.parametrize("change", [CHANGES["plain"], CHANGES["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("shape", [(1, 2, 1, 20, 70, 32), *SHAPES[1:]], ids=str)
def test_attention_forward(ptx, monkeypatch, shape, change):
    assert_matches(ptx, monkeypatch, shape, change, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_attention_in_other_types(ptx, monkeypatch, dtype):
    assert_matches(ptx, monkeypatch, (1, 2, 1, 20, 70, 32), CHANGES["all"], dtype)


@pytest.mark.parametrize("shape", [(1, 4, 2, 2, 70, 64), (1, 1, 1, 17, 66, 128)], ids=str)  # decoding, and not
def test_attention_in_float32(ptx, monkeypatch, shape):
    assert_gradients_match(ptx, monkeypatch, shape, CHANGES["causal"], torch.float32)


@pytest.mark.parametrize("shape", [(1, 4, 2, 2, 130, 64), (1, 2, 1, 1, 70, 128), (1, 1, 1, 3, 66, 256)], ids=str)
def test_attention_decode(ptx, monkeypatch, shape):
    assert_matches(ptx, monkeypatch, shape, CHANGES["causal"], torch.bfloat16)


def test_pages_decode(ptx, monkeypatch):
    decode.test_pages(ptx, monkeypatch, 1, {"window": 50, "soft_cap": 2.0}, torch.bfloat16)


@pytest.mark.parametrize("change", [CHANGES["plain"], CHANGES["all"]], ids=["plain", "all"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_backward(ptx, monkeypatch, shape, change):
    assert_gradients_match(ptx, monkeypatch, shape, change, torch.bfloat16)


@pytest.mark.parametrize(
    ("resident_blocks", "dtype"),
    [(7, torch.bfloat16), (0, torch.bfloat16), (0, torch.float32)],
    ids=["persistent", "a step a launch", "float32"],
)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_recurrence(ptx, monkeypatch, kind, resident_blocks, dtype):
    test_recurrent.take_kernels(ptx, monkeypatch)
    ptx.set_schedule(resident_blocks=resident_blocks)
    shape = (3, 19, 3, 9)  # two tiles of rows, two blocks of units
    test_recurrent.assert_matches(kind, shape, dtype, test_recurrent.lengths_of(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_cell(ptx, monkeypatch, kind, dtype):
    test_recurrent_cell.take_kernels(ptx, monkeypatch)
    shape = (2, 2, 3, 70)  # a row without a step, and more units than a draw counts together
    test_recurrent_cell.assert_matches(kind, shape, dtype, "both", test_recurrent_cell.lengths_of(shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_vocabulary_loss(ptx, monkeypatch, dtype):
    test_cross_entropy.take_kernel(ptx, monkeypatch)
    test_cross_entropy.assert_matches((7, 1100, 5), dtype, test_cross_entropy.OPTIONS["all"])
