"""What this machine does at the most, measured: the report's fractions are of these."""

from __future__ import annotations

import ctypes
import functools
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from wordkiln import get_num_threads

FAR_MEGABYTES = 1000  # more than any cache holds

_SECONDS = 0.2
_BURSTS = 3  # the best counts: neighbours only ever take


@functools.cache
def fma_peak() -> float:
    """GFLOP/s of float32 multiply-adds in registers, with the process's threads."""
    return max(_library().fma_rate(get_num_threads(), ctypes.c_double(_SECONDS)) for _ in range(_BURSTS))


@functools.cache
def read_bandwidth(megabytes: int) -> float:
    """GB/s of reading so much memory again and again, with the process's threads, from whichever cache it fits."""
    data = np.ones(max(1, megabytes) << 20, np.uint8)
    arguments = (data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(data.nbytes), get_num_threads())
    return max(_library().read_rate(*arguments, ctypes.c_double(_SECONDS)) for _ in range(_BURSTS))


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "limits.so")
        source = Path(__file__).with_suffix(".cpp")
        options = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
        subprocess.run(["g++", *options, str(source), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
    library.fma_rate.restype = library.read_rate.restype = ctypes.c_double
    return library
