"""Says what `_cuda`, whose file is named, finds: it must load where there is no driver, and say so."""

import sys

import pytest
from conftest import load_module

if __name__ == "__main__":
    module = load_module("_cuda", sys.argv[1])
    print(f"{module.device_count()} CUDA devices; {module.why_no_device() or 'ready'}")
    if not module.device_count():
        with pytest.raises(RuntimeError, match="no CUDA device"):
            module.capability(0)
