"""A whole training step of three language models (forward, backward, clipping, AdamW), ours against plain torch.

Both have the same weights and read the same batches, and the first losses must be equal. The peer is what people write:
nn.GRU / nn.LSTM / scaled_dot_product_attention, F.linear, F.cross_entropy; it gets the fused AdamW, as ours does.
"""

import subprocess
import sys
from pathlib import Path

import memory
import pairs
import pytest
import torch
import torch.nn.functional as F

from wordkiln.models import CausalLM, ModelConfig
from wordkiln.training.loss import batch_loss
from wordkiln.training.precision import ComputeModel

PEER = f"torch {torch.__version__}"
VOCAB = 10_000
GOALS = {"gru": (1.35, 1.6), "lstm": (1.1, 1.25), "transformer": (1.15, 1.25)}
MODELS = {
    "gru": ({"embedding_size": 128, "hidden_size": 256, "num_hidden_layers": 3}, 64, 128),
    "lstm": ({"hidden_size": 650, "num_hidden_layers": 2}, 32, 35),
    "transformer": ({"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6}, 32, 256),
}


class PlainRecurrent(torch.nn.Module):
    """Embedding, torch's recurrent module, output layer."""

    def __init__(self, config):
        super().__init__()
        module = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[config.kind]
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.embedding_size)
        self.rnn = module(config.embedding_size, config.hidden_size, config.num_hidden_layers, batch_first=True)

    def forward(self, ids):
        return self.rnn(self.embed_tokens(ids))[0]


class PlainTransformer(torch.nn.Module):
    """Llama's shape in torch's own functions, with our parameter names."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        # The parameters of ours, so that names and shapes are the same.
        self.inner = CausalLM(config).model

    def forward(self, ids):
        config = self.config
        x = self.inner.embed_tokens(ids)
        positions = torch.arange(ids.shape[1], dtype=torch.float32)
        exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
        angles = positions[:, None] * config.rope_theta**-exponents
        self.cos, self.sin = (torch.cat([f(angles)] * 2, -1).to(x.dtype) for f in (torch.cos, torch.sin))
        for layer in self.inner.layers:
            x = x + self.attend(layer.self_attn, self.norm(layer.input_layernorm, x))
            mlp, y = layer.mlp, self.norm(layer.post_attention_layernorm, x)
            x = x + mlp.down_proj(F.silu(mlp.gate_proj(y)) * mlp.up_proj(y))
        return self.norm(self.inner.norm, x)

    def norm(self, module, x):
        return F.rms_norm(x, module.weight.shape, module.weight, module.eps)

    def attend(self, module, x):
        heads = [
            p(x).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
            for p in (module.q_proj, module.k_proj, module.v_proj)
        ]
        q, k = (self.rotate(head) for head in heads[:2])
        out = F.scaled_dot_product_attention(q, k, heads[2], is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return module.o_proj(out.transpose(1, 2).flatten(2))

    def rotate(self, x):
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin


class Step:
    """One training step after another on batches that a seed gives."""

    def __init__(self, parameters, batch, length):
        self.parameters = list(parameters)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-3, fused=True)
        self.generator = torch.Generator().manual_seed(1)
        self.shape = (batch, length + 1)

    def __call__(self):
        ids = torch.randint(VOCAB, self.shape, generator=self.generator)
        loss = self.loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.after()
        return loss

    def after(self):
        self.optimizer.zero_grad()


class Ours(Step):
    """A step as `wordkiln.Trainer` does it."""

    def __init__(self, model, batch, length, precision):
        super().__init__(model.parameters(), batch, length)
        self.compute = ComputeModel(model, precision)

    def loss(self, inputs, targets):
        loss, _ = batch_loss(self.compute.model, inputs, targets)
        loss.backward()
        self.compute.collect_gradients()
        return loss.item()

    def after(self):
        self.compute.forget_gradients(self.optimizer)
        self.compute.refresh()


class Theirs(Step):
    """A step in plain torch, under autocast for bfloat16."""

    def __init__(self, model, head, batch, length, autocast):
        super().__init__([*model.parameters(), head], batch, length)
        self.model, self.head, self.autocast = model, head, autocast

    def loss(self, inputs, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            logits = F.linear(self.model(inputs), self.head)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        return loss.item()


def build(kind, precision, autocast):
    """Both steps, from the same weights."""
    sizes, batch, length = MODELS[kind]
    torch.manual_seed(0)
    config = ModelConfig(kind=kind, vocab_size=VOCAB, dropout=0.0, tie_word_embeddings=False, **sizes)
    ours = CausalLM(config)
    if kind == "transformer":
        theirs = PlainTransformer(config)
        theirs.inner.load_state_dict(ours.model.state_dict())
    else:
        theirs = PlainRecurrent(config)
        theirs.load_state_dict(ours.model.state_dict())
    head = torch.nn.Parameter(ours.output_weight.detach().clone())
    return Ours(ours, batch, length, precision), Theirs(theirs, head, batch, length, autocast), batch * length


@pytest.mark.parametrize(
    ("precision", "autocast", "goal"),
    [("float32", False, None), ("bfloat16", False, (2.2, 2.2)), ("bfloat16", True, (1.0, 1.0))],
)
@pytest.mark.parametrize("kind", list(MODELS))
def test_training_step(kind, precision, autocast, goal):
    ours, theirs, tokens = build(kind, precision, autocast)
    # Of a first loss near ln(10000) = 9.2: float32 sums in another order; bfloat16 keeps 8 bits of each logit.
    tolerance = 1e-4 if precision == "float32" else 2e-2
    pairs.compare(
        f"{kind} LM step, {precision}",
        PEER + (" autocast" if autocast else ""),
        ours,
        theirs,
        equal=lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=tolerance),
        amount=tokens,
        unit="tokens",
        goal=goal or GOALS[kind],
        rounds=5,
    )


def print_growth(kind, which):
    """Megabytes that three float32 steps take at their peak, above both models; printed for `test_peak_memory`."""
    ours, theirs, _ = build(kind, "float32", False)
    step = {"ours": ours, "theirs": theirs}[which]
    held = memory.resident()
    memory.forget_peak()
    for _ in range(3):
        step()
    print(memory.resident("VmHWM") - held)


@pytest.mark.parametrize("kind", list(MODELS))
def test_peak_memory(kind):
    growth = {}
    for which in ("ours", "theirs"):
        program = f"import test_kernels_training; test_kernels_training.print_growth({kind!r}, {which!r})"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        growth[which] = float(done.stdout)
    ratio = growth["theirs"] / growth["ours"]
    pairs.ROWS.append(
        pairs.Row(
            work=f"{kind} LM step, float32: memory at its peak",
            peer=PEER,
            ours=f"{growth['ours']:.0f} MB",
            theirs=f"{growth['theirs']:.0f} MB",
            ratio=ratio,
            verdict=pairs.judge(ratio, 1.0),
        )
    )
