"""One setting for every thread pool: rayon in ``_rust``, OpenMP in ``_kernels`` (shared with torch where loaded)."""

from __future__ import annotations

import sys

from wordkiln import _rust
from wordkiln.errors import ArgumentError

_LIMIT = 1024


def set_num_threads(threads: int) -> None:
    """Use `threads` threads in every native call from now on, torch's included.

    Args:
        threads: 1 to 1024. Without this call, ``WORDKILN_NUM_THREADS``, ``RAYON_NUM_THREADS`` and
            ``OMP_NUM_THREADS`` decide, else the number of cores this process may use.

    Raises:
        ArgumentError: `threads` is not in that range.
    """
    if not 1 <= threads <= _LIMIT:
        raise ArgumentError(f"threads={threads}: must be 1 to {_LIMIT}")
    from wordkiln import _kernels  # deferred: a process that only tokenizes never loads OpenMP

    _rust.set_num_threads(threads)
    _kernels.set_num_threads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def get_num_threads() -> int:
    """The number of threads that native calls use."""
    return _rust.get_num_threads()
