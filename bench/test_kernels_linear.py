"""Products of a few rows with packed weights against torch's `F.linear`."""

import limits
import pairs
import pytest
import torch
import torch.nn.functional as F

from wordkiln import ops

PEER = f"torch {torch.__version__}"
SHAPES = [(32, 256, 1024), (32, 650, 2600), (20, 1500, 6000), (8, 1024, 4096), (1, 1024, 4096), (1, 1500, 6000)]


@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_few_rows(rows, inputs, outputs, storage):
    torch.manual_seed(0)
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    # The peer has the same weights: rounded to bfloat16 and back where ours are.
    weight = weight.to(getattr(torch, storage)).float()
    packed = ops.PackedLinear(weight, storage=storage)

    def repeat(function):
        with torch.no_grad():
            for _ in range(20):
                result = function()
        return result

    pairs.compare(
        f"linear {rows} x {inputs} x {outputs}, {storage} packed, 20 calls",
        PEER + " float32",
        lambda: repeat(lambda: ops.linear(x, packed)),
        lambda: repeat(lambda: F.linear(x, weight)),
        equal=lambda a, b: torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3),
        amount=20 * 2 * rows * inputs * outputs / 1e9,
        unit="GFLOP",
        limit_per_second=limits.fma_peak(),
    )
