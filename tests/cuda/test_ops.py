"""`ops.attention` on device "cuda": with fake tensors, and with the CPU executor in the GPU's place."""

import types
from contextlib import nullcontext

import pytest
import torch
from attention_cases import draw
from torch._subclasses.fake_tensor import FakeTensorMode

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.models import CausalLM, ModelConfig
from wordkiln.ops import _attention_cuda, _checks, _cuda
from wordkiln.ops._attention import attention_lacks
from wordkiln.ops._attention_kernel import attention_backward_kernel, attention_kernel
from wordkiln.ops._attention_paged import attention_paged_kernel


@pytest.fixture
def gpu(simt, monkeypatch):
    """The executor's module in place of `_cuda`."""
    monkeypatch.setattr(_cuda, "_module", simt)
    monkeypatch.setattr(_checks, "_warned", set())
    return simt


@pytest.fixture
def on_cpu_tensors(gpu, monkeypatch):
    """The GPU's kernels are called for CPU tensors too."""
    monkeypatch.setitem(attention_kernel._kernels, "cpu", _attention_cuda.forward)
    monkeypatch.setitem(attention_backward_kernel._kernels, "cpu", _attention_cuda.backward)
    monkeypatch.setitem(attention_paged_kernel._kernels, "cpu", _attention_cuda.paged)
    return gpu


def test_fake_tensors_on_cuda_take_the_kernels(gpu):
    with FakeTensorMode():
        q = torch.empty(2, 4, 5, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        k, v = (torch.empty(2, 2, 9, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        lengths = torch.empty(2, device="cuda", dtype=torch.int64)
        out, lse = ops.attention(q, k, v, key_lengths=lengths, slopes=torch.ones(4), dropout=0.1, return_lse=True)
        # Not torch.autograd.grad: its engine asks the driver for the device.
        options = (lengths, None, None, None, None, None, True, 0, 0.125, 0.0, 0.0)
        *grads, _ = torch.ops.wordkiln.attention_backward(q, k, v, out, lse, out, lse, False, *options)
    assert out.requires_grad
    assert out.device.type == lse.device.type == "cuda"
    assert (out.shape, lse.shape, lse.dtype) == (q.shape, q.shape[:3], torch.float32)
    assert [x.shape for x in grads] == [q.shape, k.shape, v.shape]
    assert gpu.take_counters()["launches"] == 0


def test_the_dispatcher_has_kernels_for_cuda():
    for name in ("attention", "attention_backward", "attention_paged"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"wordkiln::{name}", "CUDA")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autograd_goes_through_the_gpu_s_kernels(on_cpu_tensors, dtype):
    inputs = [x.requires_grad_() for x in draw((2, 4, 2, 40, 70, 32), dtype)]

    def step(attend):
        out, lse = attend(*inputs, window=20, soft_cap=3.0, return_lse=True)
        return torch.autograd.grad(out.float().sin().sum() + lse.sum(), inputs)

    ours, plain = step(ops.attention), step(ops.reference.attention)
    assert on_cpu_tensors.take_counters()["launches"] == 4
    for got, want in zip(ours, plain, strict=True):
        # Sums of some hundred products of order 1, rounded at 2^-8 in bfloat16.
        torch.testing.assert_close(got, want, **({} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}))


def test_a_model_trains_through_the_gpu_s_kernels(on_cpu_tensors, monkeypatch):
    torch.manual_seed(0)
    config = ModelConfig(kind="transformer", vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=2)
    model = CausalLM(config)
    ids = torch.randint(50, (2, 20))

    def gradients():
        model.zero_grad()
        logits, _ = model(ids)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten()).backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    ours = gradients()
    assert on_cpu_tensors.take_counters()["launches"] == 2 * 4
    monkeypatch.undo()
    for got, want in zip(ours, gradients(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_pages_go_through_the_gpu_s_kernels(on_cpu_tensors):
    q, k, v = draw((1, 4, 2, 1, 48, 32), torch.bfloat16)
    pages = [x.view(2, 3, 16, 32).permute(1, 2, 0, 3) for x in (k, v)]
    table, lengths = torch.tensor([[0, 1, 2]]), torch.tensor([45])
    got = ops.attention_paged(q, *pages, table, lengths)
    want = ops.reference.attention(q, k, v, key_lengths=lengths)
    assert on_cpu_tensors.take_counters()["launches"] == 2
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)


def module(**functions):
    stand_in = types.ModuleType("stand_in")
    vars(stand_in).update(functions)
    return stand_in


def test_what_the_kernels_lack_is_named(gpu, monkeypatch):
    with FakeTensorMode():
        x = torch.empty(1, 1, 4, 8, device="cuda", dtype=torch.float64)
        half = x.to(torch.float16)
    assert _cuda.lacks(half) is None
    assert _cuda.lacks(x) == "dtype torch.float64 on a GPU"
    monkeypatch.setenv("WORDKILN_CUDA_KERNELS", "0")
    assert "WORDKILN_CUDA_KERNELS=0" in _cuda.lacks(half)
    monkeypatch.delenv("WORDKILN_CUDA_KERNELS")
    old = module(device_count=lambda: 1, capability=lambda device: 75)
    monkeypatch.setattr(_cuda, "_module", old)
    assert "7.5" in _cuda.lacks(half)
    none = module(device_count=lambda: 0, why_no_device=lambda: "no driver")
    monkeypatch.setattr(_cuda, "_module", none)
    assert "no driver" in _cuda.lacks(half)
    monkeypatch.setattr(_cuda, "_module", None)
    assert "built without CUDA" in _cuda.lacks(half)


def test_a_gradient_of_the_bias_runs_on_the_reference(gpu):
    with FakeTensorMode():
        q = torch.empty(1, 2, 5, 16, device="cuda", dtype=torch.bfloat16)
        bias = torch.empty(5, 5, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        with pytest.warns(UserWarning, match="the gradient of a bias on a GPU"):
            out = ops.attention(q, q, q, bias=bias)
    assert out.shape == q.shape


def test_launches_go_to_torch_s_current_stream_and_device(monkeypatch):
    class OnGpu(types.SimpleNamespace):
        is_cuda = True

        def get_device(self):
            return self.device.index

    # Not there in a torch for CPUs alone.
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: [7, 77][index], raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: ("guard", device))
    x = OnGpu(device=torch.device("cuda:1"))
    assert _cuda.stream(x) == 77
    assert _cuda.guard(x) == ("guard", x.device)
    assert isinstance(_cuda.guard(OnGpu(device=torch.device("cuda:0"))), nullcontext)


def test_large_heads_of_float32_run_on_the_reference(gpu):
    with FakeTensorMode():
        lacks = [attention_lacks(torch.empty(1, 1, 1, size, device="cuda")) for size in (128, 129)]
    assert lacks[1] == "float32 heads larger than 128 on a GPU"
    assert lacks[0] != lacks[1]


SIZES = (1, 1, 1, 4, 4, 16)
ROW = (64, 64, 16)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float64"}, "dtype='float64': must be 'float32', 'bfloat16' or 'float16'"),
        ({"q": 8}, "q: address must be a multiple of 16"),
        ({"k": 0}, "k: address must not be 0"),
        ({"v_strides": (64, 64, 12)}, "v: strides must be multiples of 8"),
        ({"sizes": (1, 1, 1, 4, 4, 12)}, "head_size=12: must be a multiple of 8"),
        ({"dtype": "float32", "v_strides": (64, 64, 18)}, "v: strides must be multiples of 4"),
        ({"dtype": "float32", "sizes": (1, 1, 1, 4, 4, 132)}, "head_size=132: must be a multiple of 4 and at most 128"),
        ({"sizes": (1, 1, 1, 4, 4, 264)}, "head_size=264: must be 1 to 256"),
        ({"sizes": (1, 3, 2, 4, 4, 16)}, "heads=3: must be a multiple of kv_heads=2"),
        ({"sizes": (1, 1, 1, 2**31, 4, 16)}, "sizes: the queries of all heads, and the keys"),
        ({"sizes": (2**20, 2**10, 1, 64, 4, 16)}, r"must be at most 2\^30"),
        ({"sizes": (2**20, 1, 1, 1, 2**11, 16)}, r"must be at most 2\^30"),
        ({"window": -1}, "window=-1"),
        ({"dropout": 1.0}, "dropout"),
        ({"page_table": 16}, "page_size=0"),
    ],
)
def test_bindings_refuse_before_the_launch(simt, change, message):
    arguments = {
        "dtype": "bfloat16", "q": 16, "k": 16, "v": 16, "out": 16, "lse": 16, "key_lengths": 0, "sizes": SIZES,
        "q_strides": ROW, "k_strides": ROW, "v_strides": ROW, "out_strides": ROW, "causal": True, "scale": 1.0,
        "allocate": lambda size: 16, "stream": 0,
    }  # fmt: skip
    with pytest.raises(ArgumentError, match=message):
        simt.attention_forward(**(arguments | change))
    assert simt.take_counters()["launches"] == 0


@pytest.mark.abuse
def test_lengths_and_offsets_beyond_the_tensors_are_clamped(gpu):
    q, k, v = draw((2, 1, 1, 20, 30, 16), torch.bfloat16)
    options = (True, 0, 0.25, 0.0, 0.0)
    wrong = _attention_cuda.forward(q, k, v, torch.tensor([10**12, -5]), None, None, None, None, None, *options)
    right = _attention_cuda.forward(q, k, v, torch.tensor([30, 0]), None, None, None, None, None, *options)
    assert all(torch.equal(a, b) for a, b in zip(wrong, right, strict=True))
    q, k, v = (x[:1] for x in (q, k, v))
    offsets = torch.tensor([0, 10**12, -7])
    out, _ = _attention_cuda.forward(q, k, v, None, None, None, None, offsets, offsets, *options)
    assert out.isfinite().all()


def test_the_executor_s_device(simt):
    assert (simt.device_count(), simt.why_no_device(), simt.capability(0)) == (1, "", 80)
    with pytest.raises(ArgumentError, match="device=1: must be 0 to 0"):
        simt.capability(1)
