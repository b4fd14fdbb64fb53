"""The kernels on a real GPU, through the public calls. tests/cuda/test_recurrent.py has the recurrences' own."""

import itertools

import pytest
import test_cross_entropy
import torch
from attention_cases import CHANGES, FLOAT32_SHAPES, SHAPES, arguments_for, assert_near, draw, widened
from test_recurrent import draw as draw_layer
from test_recurrent import lengths_of

from wordkiln import load, ops
from wordkiln.models import CausalLM, ModelConfig
from wordkiln.tasks import train_language_model
from wordkiln.training.loss import batch_loss

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def to_device(arguments):
    """All but the seed, which stays on the CPU, and the slopes, which may."""
    return {
        name: x.to(DEVICE) if isinstance(x, torch.Tensor) and name not in ("seed", "slopes") else x
        for name, x in arguments.items()
    }


def attention_step(module, inputs, dtype, arguments, device):
    """The output, the log-sum-exp and the gradients of both; without gradients where there is a bias."""
    leaves = [x.to(device, dtype).requires_grad_("bias" not in arguments) for x in inputs]
    out, lse = module.attention(*leaves, return_lse=True, **arguments)
    results = [out.detach(), lse.detach()]
    if out.requires_grad:
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
        loss = (out * weights).sum() + lse.masked_fill(lse.isinf(), 0).sum()
        results += torch.autograd.grad(loss, leaves)
    return [x.cpu() for x in results]


def assert_attention_matches(shape, dtype, change):
    inputs, arguments = draw(shape, dtype), arguments_for(shape, CHANGES[change], dtype)
    got = attention_step(ops, inputs, dtype, to_device(arguments), DEVICE)
    plain = attention_step(ops.reference, inputs, dtype, arguments, "cpu")
    exact = attention_step(ops.reference, inputs, torch.float64, widened(arguments), "cpu")
    # float32 sums of products: a few hundred terms of order 1.
    torch.testing.assert_close(got.pop(1).double(), exact.pop(1), rtol=1e-5, atol=1e-5)
    plain.pop(1)
    # Unlike the executor a GPU has exp2 and tanh to 22 and 20 bits only: seen are up to 2e-6 on gradients of order 1.
    floor = 2e-6 if dtype == torch.float32 else 0.0
    for ours, theirs, want in zip(got, plain, exact, strict=True):
        assert_near(ours, theirs, want, floor)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [*itertools.product(SHAPES, [torch.bfloat16, torch.float16]), *itertools.product(FLOAT32_SHAPES, [torch.float32])],
    ids=str,
)
def test_attention(shape, change, dtype):
    assert_attention_matches(shape, dtype, change)


@every_dtype
@pytest.mark.parametrize("shape", [(2, 8, 2, 1, 3000, 64), (1, 4, 1, 3, 130, 40), (2, 8, 8, 1000, 1000, 128)], ids=str)
def test_attention_of_many_keys(shape, dtype):
    assert_attention_matches(shape, dtype, "causal")


@every_dtype
def test_packed_texts(dtype):
    offsets = torch.tensor([0, 5, 5, 6, 146, 300])
    inputs = draw((1, 4, 2, 300, 300, 64), dtype)
    got = ops.attention_varlen(*(x[0].transpose(0, 1).to(DEVICE) for x in inputs), offsets.to(DEVICE), window=30)
    got = got.cpu().transpose(0, 1)[None]
    plain, exact = (
        ops.reference.attention_varlen(*(x.to(d) for x in inputs), offsets, offsets, True, 30, 64**-0.5)[0]
        for d in (dtype, torch.float64)
    )
    assert_near(got, plain, exact)


@every_dtype
@pytest.mark.parametrize("options", test_cross_entropy.OPTIONS.values(), ids=test_cross_entropy.OPTIONS)
def test_vocabulary_loss(dtype, options):
    inputs = test_cross_entropy.draw((300, 2500, 64), dtype, options)
    on_gpu = [None if x is None else x.to(DEVICE) for x in inputs]
    got = test_cross_entropy.loss_and_gradients(ops, *on_gpu, dtype, options)
    plain, exact = (
        test_cross_entropy.loss_and_gradients(ops.reference, *inputs, d, options) for d in (dtype, torch.float64)
    )
    for ours, theirs, want in zip(got, plain, exact, strict=True):
        test_cross_entropy.assert_near(ours.cpu(), theirs, want, floor=1e-5)


def calls(dtype):
    """One call of each family, as functions of tensors that it may be given others of."""
    q, k, v = (x.to(DEVICE) for x in draw((2, 4, 2, 70, 70, 64), dtype))
    x, weight_ih, weight_hh, *biases, h, c = (t.to(DEVICE, dtype) for t in draw_layer("lstm", (5, 3, 4, 72)))
    lengths, seed = lengths_of((5, 3)).to(DEVICE), torch.tensor([5, 6])
    hidden, weight, _, targets = test_cross_entropy.draw((40, 300, 16), dtype, {})
    weight, targets = weight.to(DEVICE), targets.to(DEVICE)
    return {
        "attention": (lambda q: ops.attention(q, k, v), q),
        "decoding": (lambda q: ops.attention(q, k, v), q[:, :, -1:].contiguous()),
        "lstm": (lambda x: ops.lstm(x, weight_ih, weight_hh, *biases, state=(h, c), lengths=lengths)[0], x),
        "cell": (lambda x: ops.lstm(x, weight_ih, weight_hh, *biases, (h, c), zoneout=(0.1, 0.1), seed=seed)[0], x),
        "loss": (lambda x: ops.linear_cross_entropy(x, weight, targets), hidden.to(DEVICE)),
    }


@pytest.mark.parametrize("family", ["attention", "decoding", "lstm", "cell", "loss"])
def test_a_cuda_graph_repeats_the_call(family):
    call, x = calls(torch.bfloat16)[family]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        call(x)  # what is loaded and set at the first call
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        out = call(x)
    for factor in (1, -2):
        x.mul_(factor)
        graph.replay()
        with torch.no_grad():
            assert torch.equal(out, call(x))


@pytest.mark.parametrize("family", ["attention", "decoding", "lstm", "cell", "loss"])
def test_launches_wait_for_their_stream_alone(family):
    call, x = calls(torch.bfloat16)[family]
    want = call(x)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        later = torch.full_like(x, torch.nan)
        torch.cuda._sleep(10_000_000)
        later.copy_(x)  # a launch on another stream would see NaN
        got = call(later)
    side.synchronize()
    assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
def test_opcheck():
    q, k, v = (x.to(DEVICE).requires_grad_() for x in draw((2, 4, 2, 40, 40, 64), torch.float32))
    rest = (None, None, None, None, None, None, True, 0, 0.125, 0.0, 0.0)
    torch.library.opcheck(torch.ops.wordkiln.attention.default, (q, k, v, *rest))


def test_the_kernels_differentiate_in_float32():
    """Finite differences: gradcheck itself wants float64, which runs on the reference."""
    q, k, v = (x.to(DEVICE) for x in draw((1, 2, 1, 9, 12, 32), torch.float32))

    def loss(q):
        return ops.attention(q, k, v, window=5).double().sin().sum()

    leaf = q.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf)
    direction = torch.randn(q.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    step = 1e-2
    numeric = (loss(q + step * direction) - loss(q - step * direction)) / (2 * step)
    # The difference's own error is of the order of step^2, float32 adds some 1e-6 / step.
    torch.testing.assert_close((grad * direction).sum().double(), numeric, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
@pytest.mark.filterwarnings("ignore:wordkiln.ops")  # norm, rotary and SwiGLU run on the reference
def test_a_model_has_the_gradients_of_the_cpu(kind):
    torch.manual_seed(0)
    model = CausalLM(ModelConfig(kind=kind, vocab_size=50, hidden_size=64, num_hidden_layers=2, dropout=0.0))
    ids, targets = torch.randint(50, (2, 3, 20))
    want = torch.autograd.grad(batch_loss(model, ids, targets)[0], list(model.parameters()))
    on_gpu = model.to(DEVICE)
    got = torch.autograd.grad(batch_loss(on_gpu, ids.to(DEVICE), targets.to(DEVICE))[0], list(on_gpu.parameters()))
    for ours, theirs in zip(got, want, strict=True):
        # float32 in another order, through two layers and back.
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:wordkiln.ops")
def test_a_run_trains_and_goes_on_as_on_the_cpu(tmp_path):
    (tmp_path / "corpus.txt").write_text("從前有一座山，山上有一座廟。" * 300, encoding="utf-8")
    model = {"hidden_size": 32, "num_attention_heads": 2, "dropout": 0.0}  # the devices' dice differ
    losses = {}
    for device, (steps, resume) in itertools.product(("cpu", DEVICE), ((4, False), (6, True))):
        training = {"batch_size": 2, "sequence_length": 16, "eval_every": 2, "max_steps": steps}
        result = train_language_model(
            tmp_path / "corpus.txt", tmp_path / device, kind="transformer", vocab_size=280,
            model=model, training=training, device=device, resume=resume,
        )  # fmt: skip
        losses[device] = result.best_valid_loss
    # Six steps of AdamW, whose first ones make a step of any gradient, however small.
    assert losses[DEVICE] == pytest.approx(losses["cpu"], rel=1e-3)
    assert load(tmp_path / DEVICE, backend="torch", device=DEVICE).generate("從前", max_new_tokens=5).text
