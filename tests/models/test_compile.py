"""torch.compile of a whole model, the loss included, sees no graph break and computes what eager mode does."""

import pytest
import torch

from wordkiln import ops
from wordkiln.models import CausalLM, ModelConfig


def loss_and_gradients(model, step, ids, targets):
    model.zero_grad()
    loss = step(ids, targets)
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


def compare(config, backend):
    torch.manual_seed(0)
    model = CausalLM(config).train()
    ids = torch.randint(config.vocab_size, (2, 9))

    def step(ids, targets):
        hidden, _ = model.hidden(ids, None)
        return ops.linear_cross_entropy(hidden, model.output_weight, targets)

    inputs = (ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    torch._dynamo.reset()
    compiled = loss_and_gradients(model, torch.compile(step, fullgraph=True, backend=backend), *inputs)
    eager = loss_and_gradients(model, step, *inputs)
    # Fused elementwise operations round in other places.
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)


def test_without_a_graph_break(config):
    compare(config, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_with_torchs_own_compiler(kind):
    compare(ModelConfig(kind=kind, vocab_size=37, hidden_size=32, num_hidden_layers=1), "inductor")
