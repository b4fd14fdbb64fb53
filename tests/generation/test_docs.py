"""Every Python example of docs/generation.md runs, in order, on a small model."""

import contextlib
import io
import re
from pathlib import Path

import wordkiln as wk

PAGE = Path(__file__).parents[2] / "docs" / "generation.md"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def test_examples_run(checkpoint, monkeypatch):
    small = wk.load(checkpoint)
    small._template = TEMPLATE
    monkeypatch.setattr(wk, "load", lambda path: small)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 6
    saved = []
    names = {"prompts": ["從前", "Once"], "save": saved.append, "book": "床前明月光" * 50}
    # Not pytest's: a random model writes lone surrogates, which are no UTF-8.
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for block in blocks:
            exec(compile(block.replace("=200", "=20"), str(PAGE), "exec"), names)
    assert len(saved) == 2
    assert printed.getvalue()
