"""Every kind of model: tensors against the torch state dict, logits of the plain definition against transformers'."""

import numpy as np
import pytest

from wordkiln.interop import open_model
from wordkiln.runtime import reference

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]

# Logits are near 10; transformers computes them in float32, whose error here is below 1e-5 of that.
TOLERANCE = {"atol": 1e-4, "rtol": 0}
IDS = np.random.default_rng(1).integers(0, 300, 40).tolist()


def test_the_plain_definition_gives_transformers_logits(tiny):
    opened = open_model(tiny.directory)
    wanted = tiny.logits(IDS)
    assert wanted.std() > 1
    np.testing.assert_allclose(reference.logits(opened.architecture, opened.source, IDS), wanted, **TOLERANCE)
