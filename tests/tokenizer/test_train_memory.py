"""Training within max_memory: measured from outside, and the same whatever the threads."""

import base64
import random
import string
import subprocess
import sys

import pytest

import wordkiln as wk
from wordkiln.tokenizer import Tokenizer

MEASURED = """
import sys
import wordkiln as wk

def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024

wk.Tokenizer.train(["a small text to load all code with"], vocab_size=270)
path, source, limit = sys.argv[1], sys.argv[2], sys.argv[3]

def texts():
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            yield part

before = resident("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
tokenizer = wk.Tokenizer.train(path if source == "file" else texts(), vocab_size=6000, max_memory=limit)
print(resident("VmHWM") - before, tokenizer.fingerprint)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Words that never occur again, and runs without a space of letters, of Chinese, of DNA and of base64."""
    source = random.Random(0)
    folder = tmp_path_factory.mktemp("hostile")
    characters = [chr(code) for code in range(0x4E00, 0x5E00)]
    texts = {
        "words": " ".join("".join(source.choices(string.ascii_letters, k=8)) for _ in range(500_000)),
        "chinese": "".join(source.choices(characters, weights=[1 / rank for rank in range(1, 4097)], k=3_000_000)),
        "base64": base64.b64encode(source.randbytes(7_000_000)).decode(),
        "dna": "".join(source.choices("ACGT", k=9_000_000)),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.abuse
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["words", "chinese", "base64", "dna"])
def test_training_stays_within_its_memory(hostile, name):
    for source in ("file", "texts") if name == "chinese" else ("file",):
        command = [sys.executable, "-c", MEASURED, str(hostile / name), source, "64MiB"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert int(output.split()[0]) <= 64 << 20, source


@pytest.mark.abuse
@pytest.mark.parametrize("name", ["words", "chinese"])
def test_what_is_left_out_does_not_depend_on_the_threads(hostile, name):
    before = wk.get_num_threads()
    found = set()
    try:
        for threads in (1, 3):
            wk.set_num_threads(threads)
            tokenizer = Tokenizer.train(hostile / name, vocab_size=1000, max_memory="64MiB")
            found.add(tokenizer.fingerprint)
    finally:
        wk.set_num_threads(before)
    assert len(found) == 1


def test_a_run_without_end_is_counted():
    text = "a" * 40_000_000
    tokenizer = Tokenizer.train([text], vocab_size=270, special_tokens=())
    assert tokenizer.token_bytes(269) == b"a" * 2**14
