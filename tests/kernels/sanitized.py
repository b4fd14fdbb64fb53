"""Runs the kernel tests on another build of `_kernels`, which `make sanitize` names."""

import importlib.util
import sys

import pytest

import wordkiln

TESTS = [
    "tests/kernels/test_bindings.py",
    "tests/kernels/test_recurrent_step.py",
    "tests/ops",
    "tests/nn",
    "tests/runtime/test_decoder.py",
    "tests/runtime/test_encodings.py",
    "tests/runtime/test_kernel_calls.py",
    "tests/runtime/test_recurrent_model.py",
]
# These start processes or compilers of their own, which would not load this build, or need none of it.
SKIPPED = "not compile and not opcheck and not sound_torch_op and not never_holds"

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("wordkiln._kernels", sys.argv[1])
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    sys.modules["wordkiln._kernels"] = wordkiln._kernels = kernels
    # Capturing file descriptors would swallow the sanitizers' reports.
    options = ["-q", "-x", "--capture=sys", "-p", "no:cacheprovider", "--timeout=0", "-m", "not slow", "-k", SKIPPED]
    sys.exit(pytest.main([*options, *TESTS]))
