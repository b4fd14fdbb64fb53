"""On a GPU: attention against scaled_dot_product_attention and flash-attn, LSTM against cuDNN, the loss against torch.

Each call by call, as Python makes them, and as a CUDA graph that is replayed: the kernels without the host's part.
Skipped where there is no GPU, or where the package was built without CUDA (docs/cuda.md).
"""

import importlib.util

import pairs
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from wordkiln import ops
from wordkiln.models import CausalLM, ModelConfig
from wordkiln.ops import _cuda
from wordkiln.training.loss import batch_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(_cuda._module is None, reason="the package was built without CUDA"),
]
ROUNDS_EACH = 20  # calls between two looks at the clock: a launch takes microseconds


def peer(name):
    return f"{name}, torch {torch.__version__}, {torch.cuda.get_device_name()}"


def timed(call):
    def work():
        torch.cuda.synchronize()
        for _ in range(ROUNDS_EACH):
            result = call()
        torch.cuda.synchronize()
        return result

    return work


def replayed(call):
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()  # what is loaded and set at the first call
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay():
        graph.replay()
        return result

    return timed(replay)


def near(one, other):
    for a, b in zip(one, other, strict=True):
        # 16 bits: sums of some hundred terms in another order, through hundreds of steps. float32: the same in its own
        # rounding; and losses of 16-bit logits, which are a mean of thousands.
        part = 1e-3 if a.dtype == torch.float32 else 0.02
        torch.testing.assert_close(a.float(), b.float(), rtol=part, atol=part * max(1.0, b.float().abs().max().item()))


def compare(work, name, ours, theirs, products):
    for how, run in (("", timed), (", replayed", replayed)):
        pairs.compare(
            work + how, peer(name), run(ours), run(theirs),
            equal=near, amount=ROUNDS_EACH * 2 * products / 1e12, unit="TFLOP",
        )  # fmt: skip


def step(call, leaves):
    out = call(*leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out)))


def backend(kind):
    def call(q, k, v):
        with sdpa_kernel(kind):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return call


def attention_peers(dtype):
    """torch's own choice (in 16 bits on Hopper cuDNN's), what uses the instructions that ours do, flash-attn."""
    if dtype == torch.float32:
        return {"torch's memory-efficient attention": backend(SDPBackend.EFFICIENT_ATTENTION)}
    peers = {
        "scaled_dot_product_attention": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "torch's FlashAttention-2": backend(SDPBackend.FLASH_ATTENTION),
    }
    if importlib.util.find_spec("flash_attn") is not None:
        from flash_attn import flash_attn_func

        peers["flash-attn"] = lambda q, k, v: flash_attn_func(
            *(x.transpose(1, 2) for x in (q, k, v)), causal=True
        ).transpose(1, 2)
    return peers


# (B, H, S, D)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 16, 2048, 64), torch.bfloat16),
        ((2, 16, 4096, 128), torch.bfloat16),
        ((4, 8, 2048, 256), torch.bfloat16),
        ((16, 12, 512, 64), torch.bfloat16),
        ((2, 8, 1024, 64), torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("train", [False, True], ids=["forward", "forward and backward"])
def test_attention(shape, dtype, train):
    batch, heads, length, size = shape
    leaves = [torch.randn(shape, device="cuda", dtype=dtype, requires_grad=train) for _ in range(3)]

    def run(call):
        return (lambda: step(call, leaves)) if train else (lambda: (call(*leaves),))

    # Two products forward, five backward, of the half that is not masked.
    products = (7 if train else 2) * batch * heads * length * length * size / 2
    for name, call in attention_peers(dtype).items():
        work = f"attention {shape} {dtype} {'fwd+bwd' if train else 'fwd'}"
        compare(work, name, run(ops.attention), run(call), products)


# (B, H, Hkv, K, D); the last two lie in L2, here and there.
@pytest.mark.parametrize("shape", [(8, 32, 8, 16384, 128), (8, 32, 8, 1024, 128), (1, 12, 12, 1024, 64)], ids=str)
def test_decoding(shape):
    batch, heads, kv_heads, keys, size = shape
    q = torch.randn(batch, heads, 1, size, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(batch, kv_heads, keys, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    compare(
        f"decoding {shape}", "scaled_dot_product_attention",
        lambda: (ops.attention(q, k, v),),
        lambda: (F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != kv_heads),),
        2 * batch * heads * keys * size,
    )  # fmt: skip


# (T, B, H). torch joins the weights of a layer for cuDNN, but not those in bfloat16, and warns.
@pytest.mark.parametrize(
    "shape", [(128, 64, 256), (512, 8, 256), (256, 32, 512), (128, 64, 1024), (35, 20, 1500)], ids=str
)
@pytest.mark.parametrize(
    ("kind", "dtype"), [("lstm", torch.float16), ("lstm", torch.bfloat16), ("gru", torch.float16)], ids=str
)
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
def test_recurrence(kind, shape, dtype):
    steps, batch, hidden = shape
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[kind](hidden, hidden, device="cuda", dtype=dtype)
    x = torch.randn(steps, batch, hidden, device="cuda", dtype=dtype)
    leaves = [x.requires_grad_(), *(p for p in layer.parameters())]
    compare(
        f"{kind} {shape} {dtype} fwd+bwd", "cuDNN",
        lambda: step(lambda *a: getattr(ops, kind)(*a)[0], leaves),
        lambda: step(lambda *a: layer(x)[0], leaves),
        3 * {"lstm": 8, "gru": 6}[kind] * steps * batch * hidden * hidden,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(8192, 32000, 1024), (4096, 128000, 2048)], ids=str)
def test_vocabulary_loss(shape):
    tokens, words, width = shape
    leaves = [
        torch.randn(rows, width, device="cuda", dtype=torch.bfloat16, requires_grad=True) for rows in (tokens, words)
    ]
    targets = torch.randint(words, (tokens,), device="cuda")
    compare(
        f"linear + cross-entropy {shape} fwd+bwd", "linear and cross_entropy",
        lambda: step(lambda x, w: ops.linear_cross_entropy(x, w / width**0.5, targets), leaves),
        lambda: step(lambda x, w: F.cross_entropy(F.linear(x, w / width**0.5).float(), targets), leaves),
        3 * tokens * words * width,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.filterwarnings("ignore:wordkiln.ops")  # norm, rotary, SwiGLU and, for the peer, all run on the reference
def test_training_step(dtype, monkeypatch):
    """A Transformer's gradients, beside the same model on plain torch alone."""
    config = ModelConfig(
        kind="transformer", vocab_size=8000, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, dropout=0.0
    )
    model = CausalLM(config).to("cuda", dtype)
    batch, length = 32, 256
    inputs, targets = torch.randint(8000, (2, batch, length), device="cuda")
    parameters = list(model.parameters())

    def run(kernels):
        def call():
            monkeypatch.setenv("WORDKILN_CUDA_KERNELS", kernels)
            return torch.autograd.grad(batch_loss(model, inputs, targets)[0], parameters)

        return call

    products = 3 * batch * length * sum(p.numel() for p in parameters)
    pairs.compare(
        f"Transformer step {dtype}", peer("our model on plain torch"), timed(run("1")), timed(run("0")),
        equal=near, amount=ROUNDS_EACH * 2 * products / 1e12, unit="TFLOP",
    )  # fmt: skip
