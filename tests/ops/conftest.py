"""What the tests of several ops share."""

import pytest
import torch


@pytest.fixture
def assert_as_exact():
    """The check of an op in a narrow type."""
    return _assert_as_exact


def _assert_as_exact(got, plain, exact):
    """Every result of `got` is at most twice as far from `exact` (float64) as `plain`, torch in the same type, is.

    One rounding of the largest value is always allowed: `plain` may be exact by luck.
    """
    for ours, theirs, want in zip(got, plain, exact, strict=True):
        assert ours.dtype == theirs.dtype
        if want.numel():
            rounding = torch.finfo(ours.dtype).eps * want.abs().max()
            error, allowed = ((x.double() - want).abs().max() for x in (ours, theirs))
            assert error <= 2 * allowed + rounding, (error, allowed, rounding)
