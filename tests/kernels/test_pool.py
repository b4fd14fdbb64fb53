"""One OpenMP pool in the process, whichever of torch and the kernels comes first, ruled by torch's setting."""

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
