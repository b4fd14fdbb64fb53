"""The C library's allocator, told to keep what is freed: a training step frees and takes the same large arrays again
and again, and glibc maps each of them anew by default, so that every page is faulted in and zeroed once a step.
"""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST = 2**31 - 1
_TOP_PAD = 256 << 20

_kept = False


def keep_freed_memory() -> bool:
    """Keep freed memory in this process from now on, and take blocks below 2 GiB from it. It cannot be undone.

    Returns:
        Whether it is so. False where the allocator is not glibc's.
    """
    global _kept
    if not _kept and sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:  # musl
            return False
        mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
        # A threshold of -1 would be no threshold; so large a one is as good, and keeps the pad below it in use.
        settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _LARGEST), (_M_TOP_PAD, _TOP_PAD))
        _kept = all(mallopt(name, value) for name, value in settings)
    return _kept
