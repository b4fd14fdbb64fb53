"""A conversation on a terminal, with a stand-in model; and one on a real (pseudo-)terminal, Ctrl-C included."""

import os
import pty
import select
import subprocess
import sys
import time

import pytest

from wordkiln.cli.chat import Conversation
from wordkiln.errors import ArgumentError


class Model:
    """Answers with the number of messages it was given; fails and is interrupted on request."""

    def __init__(self):
        self.seen = []

    def stream_chat(self, messages, **settings):
        self.seen.append([message["content"] for message in messages])
        if messages[-1]["content"] == "fail":
            raise ArgumentError("too long")
        yield f"<{len(messages)}"
        if messages[-1]["content"] == "interrupt":
            raise KeyboardInterrupt
        yield ">"


def talk(monkeypatch, *lines):
    """What a conversation of these lines leaves."""
    waiting = iter(lines)

    def read(_):
        line = next(waiting, EOFError)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    model = Model()
    conversation = Conversation(model, [{"role": "system", "content": "S"}], {"seed": 1})
    conversation.run()
    return model.seen, conversation.messages


def test_turns_see_the_turns_before_them(monkeypatch, capsys):
    seen, messages = talk(monkeypatch, "a", "", "b")
    assert seen == [["S", "a"], ["S", "a", "<2>", "b"]]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert "<2>\n<4>\n" in capsys.readouterr().out


def test_clear_begins_anew_and_exit_leaves(monkeypatch):
    seen, messages = talk(monkeypatch, "a", "/clear", "b", "/exit", "c")
    assert seen == [["S", "a"], ["S", "b"]]
    assert len(messages) == 3


def test_an_answer_that_is_stopped_stays_a_question_that_fails_goes(monkeypatch, capsys):
    seen, _ = talk(monkeypatch, "interrupt", KeyboardInterrupt, "fail", "b")
    assert seen[-1] == ["S", "interrupt", "<2", "b"]
    assert "wordkiln: too long" in capsys.readouterr().err


def read_until(terminal, text, seconds=200):
    """What the terminal shows, up to `text`."""
    shown = ""
    deadline = time.monotonic() + seconds
    while not shown or text not in shown:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], shown
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_on_a_terminal_ctrl_c_stops_an_answer_and_keeps_the_conversation(checkpoint):
    ours, theirs = pty.openpty()
    # An answer without an end, and without what looks like the prompt.
    settings = "--max-new-tokens 1000000 --min-new-tokens 1000000 --bad-words > --seed 1"
    process = subprocess.Popen(
        # setsid -c: the terminal becomes the one that Ctrl-C comes from.
        ["setsid", "-c", sys.executable, "-m", "wordkiln", "chat", checkpoint, *settings.split()],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb"},
    )
    os.close(theirs)
    try:
        read_until(ours, "> ")
        os.write(ours, b"the quick\n")
        shown = read_until(ours, "quick\r\n")
        while len(shown) < 300:  # the answer has begun
            shown += read_until(ours, "")
        os.write(ours, b"\x03")
        read_until(ours, "> ")
        os.write(ours, b"/exit\n")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
