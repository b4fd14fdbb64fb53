"""Every instruction set of this machine computes the same, and its vector functions keep their stated error."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wordkiln import _kernels

PROBE = Path(__file__).with_name("isa_probe.py")
# csrc/include/wordkiln/elementwise.h states these.
ULPS = {"exp": 2.0, "sigmoid": 4.0, "tanh": 4.0, "erf": 12.0}


def exact_erf(x):
    """By its series without cancellation (Abramowitz and Stegun 1964, 7.1.6), to some 2e-18."""
    size = np.minimum(np.abs(x), 6.6)  # beyond, 1 is nearer than 2^-64
    term = 1 / np.sqrt(np.arctan(np.longdouble(1))) * np.exp(-(size**2)) * size
    total = term.copy()
    for n in range(1, 180):
        term *= 2 * size**2 / (2 * n + 1)
        total += term
    return np.copysign(total, x)


def load_probe():
    spec = importlib.util.spec_from_file_location("isa_probe", PROBE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("isa")
    loaded = {}
    for isa in _kernels.available_isas():
        path = folder / f"{isa}.npz"
        subprocess.run([sys.executable, PROBE, path], env=os.environ | {"WORDKILN_ISA": isa}, check=True, timeout=120)
        with np.load(path) as file:
            loaded[isa] = dict(file)
    return loaded


def test_the_variable_forces_the_instruction_set(results):
    assert {isa: str(result["isa"]) for isa, result in results.items()} == {isa: isa for isa in results}
    assert "baseline" in results


def test_without_the_variable_the_fastest_is_used():
    environment = {name: value for name, value in os.environ.items() if name != "WORDKILN_ISA"}
    code = "from wordkiln import _kernels as k; assert k.current_isa() == k.available_isas()[-1]"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


@pytest.mark.abuse
def test_an_unknown_instruction_set_is_a_named_error():
    code = (
        "from wordkiln import _kernels\nfrom wordkiln.errors import ArgumentError\n"
        "try: _kernels.elementwise('float32', 'exp', 0, 0, 0)\n"
        "except ArgumentError as error: assert 'WORDKILN_ISA=mmx' in str(error)\n"
        "else: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"WORDKILN_ISA": "mmx"}, check=True, timeout=60)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_all_instruction_sets_agree(results, dtype):
    # They differ in fused multiply-adds and in the order of sums: some tens of roundings of values of order 1 to 10.
    # What is stored as bfloat16 may then round to a neighbour; and the tile unit takes attention's weights and their
    # gradients rounded to bfloat16, which shows where a sum's terms, of the order of the largest results, cancel.
    tolerance = 2.0**-6 if dtype == "bfloat16" else 500 * np.finfo(dtype).eps
    baseline = results["baseline"]
    names = [name for name in baseline if name.startswith(dtype) and name.split()[1] not in ULPS]
    for isa, result in results.items():
        for name in names:
            want = baseline[name]
            absolute = tolerance * (max(1, np.abs(want).max(initial=0)) if isa == "amx" else 1)
            np.testing.assert_allclose(result[name], want, tolerance, absolute, err_msg=f"{isa}: {name}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", ULPS)
@pytest.mark.filterwarnings("ignore:(overflow|underflow) encountered")
def test_vector_functions_keep_their_stated_error(results, function, dtype):
    probe = load_probe()
    x = probe.inputs(dtype).astype(np.longdouble)
    exact = {"exp": np.exp, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh, "erf": exact_erf}[function](x)
    limits = np.finfo(dtype)
    normal = (np.abs(exact) >= limits.tiny) & (np.abs(exact) <= limits.max)
    unit = np.spacing(np.abs(exact[normal]).astype(dtype)).astype(np.longdouble)
    for isa, result in results.items():
        got = result[f"{dtype} {function}"]
        error = np.abs(got[normal].astype(np.longdouble) - exact[normal]) / unit
        worst = int(error.argmax())
        assert error[worst] <= ULPS[function], f"{isa}: {error[worst]:.2f} ulp at {x[normal][worst]}"
        small = np.abs(exact) < limits.tiny
        assert (np.abs(got[small]) <= limits.tiny).all(), isa
        assert (got[exact > limits.max] == np.inf).all(), isa
        assert np.isnan(got[np.isnan(x)]).all(), isa


@pytest.mark.parametrize("function", ULPS)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_bfloat16_is_the_float32_result_rounded_once(results, function):
    inputs = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    single = np.empty_like(inputs)
    _kernels.elementwise("float32", function, inputs.ctypes.data, single.ctypes.data, inputs.size)
    bits = single.view(np.uint32)
    nearest = ((bits.astype(np.uint64) + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    nearest[np.abs(single) < np.finfo(np.float32).tiny] &= 0x8000
    for isa, result in results.items():
        got = result[f"bfloat16 {function}"]
        assert np.array_equal(got & 0x7FFF > 0x7F80, np.isnan(single)), isa
        # Equal but where instruction sets differ in the float32 result, next to the middle between two bfloat16.
        wrong = ~np.isnan(single) & (got != nearest)
        assert np.abs(got[wrong].astype(int) - nearest[wrong]).max(initial=0) <= 1, isa
        from_middle = np.abs((bits[wrong] & 0xFFFF).astype(int) - 0x8000)
        assert from_middle.max(initial=0) <= 2 * ULPS[function], isa
