"""Ctrl-C, as a real signal in a process of its own: what was written is kept, and the program still ends."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time
import numpy as np
import wordkiln as wk
from wordkiln.generation import LanguageModel

class Decoder:
    def push(self, token_id): return chr(token_id)
    def finish(self): return ""

class Letters:
    vocab_size, end_id = 128, None
    def encode(self, text, allowed_special=()): return list(text.encode())
    def decode_stream(self): return Decoder()

class Model:
    "Writes the letter behind the last one; sends this process a Ctrl-C in the middle of step 5."
    vocab_size, max_positions, eos_token_id = 128, None, None
    steps = 0
    def logits(self, last):
        logits = np.full((len(last), 128), -9.0, np.float32)
        logits[np.arange(len(last)), np.asarray(last) + 1] = 9
        return logits
    def begin(self, prompts): return len(prompts), self.logits([prompt[-1] for prompt in prompts])
    def step(self, state, ids):
        self.steps += 1
        if self.steps == 5:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return self.logits(ids)
    def select(self, state, rows): return len(rows)
    def join(self, states): return sum(states)

signal.signal(signal.SIGINT, signal.default_int_handler)
model = LanguageModel(Model(), Letters())
settings = {"temperature": 0, "max_new_tokens": 20}

def shown(completions):
    return [(completion.text, completion.finish_reason) for completion in completions]
"""

WRITTEN = {
    "generate": (
        "try: model.generate(['A', 'K'], **settings)\nexcept KeyboardInterrupt as stop: print(shown(stop.completions))",
        "[('BCDEF', 'interrupted'), ('LMNOP', 'interrupted')]",
    ),
    # Room for two: C is not begun when A and K are at their fifth letter.
    "batch": (
        "try: model.batch(['A', 'K', 'C'], max_batch_size=2, **settings)\n"
        "except wk.generation.Interrupted as stop: print(shown(stop.completions))",
        "[('BCDEF', 'interrupted'), ('LMNOP', 'interrupted')]",
    ),
    # A and K are given; C had begun behind them.
    "iter_batch": (
        "settings['max_new_tokens'] = 4\nfound = []\n"
        "try: found.extend(model.iter_batch(iter('AKC'), max_batch_size=2, **settings))\n"
        "except KeyboardInterrupt as stop: print(shown(found + stop.completions))",
        "[('BCDE', 'length'), ('LMNO', 'length'), ('DE', 'interrupted')]",
    ),
    "stream": (
        "stream = model.stream('A', **settings)\nprint(list(stream), stream.finish_reason, list(stream))",
        "['B', 'C', 'D', 'E', 'F'] interrupted []",
    ),
    # The second letter is much less probable than the first, the text of one letter less than five; sums, not means.
    "beam": (
        "try: model.beam(['A', 'K'], num_beams=2, max_new_tokens=20, length_penalty=0.0)\n"
        "except wk.generation.Interrupted as stop: print([shown(texts) for texts in stop.completions])",
        "[[('BCDEF', 'interrupted')], [('LMNOP', 'interrupted')]]",
    ),
    "chat": (
        "try: model.chat([{'role': 'user', 'content': 'A'}], template='{{ messages[0].content }}', **settings)\n"
        "except KeyboardInterrupt as stop: print(shown(stop.completions))",
        "[('BCDEF', 'interrupted')]",
    ),
}


def run(script):
    # In a process group of its own, so that its Ctrl-C is not the tests'.
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + script],
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )


@pytest.mark.parametrize("method", WRITTEN)
def test_what_was_written_is_kept(method):
    script, expected = WRITTEN[method]
    result = run(script)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == expected


def test_a_program_that_does_not_catch_it_ends():
    result = run("model.generate('A', **settings)\nprint('went on')")
    assert result.returncode != 0
    assert "Interrupted" in result.stderr
    assert "went on" not in result.stdout


COMPILING = """
import json, os, signal, threading
from pathlib import Path
from wordkiln.generation import Constraint
from wordkiln.tokenizer import Tokenizer

tokenizer = Tokenizer.train(["a text"], vocab_size=260)
Constraint(tokenizer, regex="a", end_ids=[0])  # the vocabulary's trie is there from now on
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
names = [{"properties": {f"{name}-{number}": {} for number in range(1000)}} for name in range(9)]
try:
    Constraint(tokenizer, schema={"anyOf": names}, end_ids=[0])
except KeyboardInterrupt:
    print([Path(task, "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the process's threads in /proc")
def test_compiling_a_constraint_is_left_behind():
    """llguidance cannot be stopped: that it still works when the interrupt has been raised shows that nobody waited."""
    result = run(COMPILING)
    assert result.returncode == 0, result.stderr
    assert "'wordkiln'" in result.stdout
