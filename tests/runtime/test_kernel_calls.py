"""What the runtime says about the kernels, and packed weights in its hands."""

import numpy as np
import pytest

from wordkiln.errors import ArgumentError
from wordkiln.runtime import instruction_sets
from wordkiln.runtime._kernel_calls import PackedLinear


def test_the_current_instruction_set_is_one_of_those_available():
    current, available = instruction_sets()
    assert current in available


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("inputs", [2, 33, 130])
def test_rows_are_the_weights_that_products_have(dtype, inputs):
    weight = np.random.default_rng(0).normal(size=(71, inputs)).astype(np.float32)
    packed = PackedLinear(weight, dtype)
    # One input of 1 beside zeros: the sum is the weight itself.
    stored = packed(np.eye(inputs, dtype=np.float32)).T
    ids = np.array([[70, 0, 64], [63, 5, 5]])
    np.testing.assert_array_equal(packed.rows(ids), stored[ids])
    np.testing.assert_array_equal(packed.rows(ids.T), stored[ids.T])
    assert (stored == weight).all() == (dtype == "float32")


@pytest.mark.abuse
@pytest.mark.parametrize("id", [-1, 3])
def test_rows_that_there_are_not_are_refused(id):
    packed = PackedLinear(np.ones((3, 4), np.float32), "float32")
    with pytest.raises(ArgumentError, match=rf"ids\[1\]={id}: must be 0 to 2"):
        packed.rows(np.array([0, id]))
