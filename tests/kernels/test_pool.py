"""One OpenMP pool in the process, whichever of torch and the kernels comes first, ruled by torch's setting."""

import os
import subprocess
import sys

import pytest

CHECK = """
import re
with open("/proc/self/maps") as file:
    pools = {line.split()[-1] for line in file if re.search(r"lib(gomp|omp|iomp5)[-.]", line)}
assert len(pools) == 1, pools
for threads in (1, 3, 2):
    torch.set_num_threads(threads)
    assert _kernels.get_num_threads() == threads
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize(
    "imports",
    ["import torch\nfrom wordkiln import _kernels", "from wordkiln import _kernels\nimport torch"],
    ids=["torch first", "kernels first"],
)
def test_one_pool(imports):
    subprocess.run([sys.executable, "-c", imports + CHECK], check=True, timeout=120)


def test_fewer_threads_than_asked_for_do_all_of_the_work():
    code = """
import torch
from wordkiln import ops
x, w = torch.randn(500, 301, dtype=torch.float64, requires_grad=True), torch.rand(301, dtype=torch.float64)
w.requires_grad_()
for ours, plain in (
    (lambda: ops.rms_norm(x, w, 1e-5), lambda: ops.reference.rms_norm(x, w, 1e-5)),
    (lambda: ops.gelu(x, w), lambda: ops.reference.gelu(x, w)),
):
    got, want = (torch.autograd.grad(f().sin().sum(), (x, w)) for f in (ours, plain))
    torch.testing.assert_close(got, want)
"""
    environment = os.environ | {"OMP_NUM_THREADS": "3", "OMP_THREAD_LIMIT": "1"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
