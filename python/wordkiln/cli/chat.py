"""`wordkiln chat`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordkiln.cli._files import INTERRUPTED, STANDARD_INPUT, line_of, parse, read_text
from wordkiln.cli._settings import DType, Model, takes_settings

if TYPE_CHECKING:
    from wordkiln.generation import LanguageModel

_ANSWER_TOKENS = 512


@takes_settings
def chat(
    model: Model,
    system: Annotated[str | None, typer.Option(help="A system message to begin the conversation with.")] = None,
    messages: Annotated[
        str | None,
        typer.Option(
            help="Answer this conversation instead: a JSON file with a list of messages; '-': standard input."
        ),
    ] = None,
    template: Annotated[Path | None, typer.Option(help="A Jinja chat template in the place of the model's.")] = None,
    dtype: DType = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="The answer as a JSON object.")] = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Talk with a model. Ctrl-C stops an answer and keeps the conversation; /clear begins a new one, /exit leaves.

    Where standard input is no terminal it is read as the conversation: a JSON list of messages.

    [bold]Examples[/bold]

    wordkiln chat models/smollm2 --system "Answer in one sentence." --temperature 0.7

    echo '[{"role": "user", "content": "Hello!"}]' | wordkiln chat models/smollm2 --json
    """
    from wordkiln.generation import load

    if template is not None:
        settings["template"] = read_text(str(template))
    interactive = messages is None and sys.stdin.isatty()
    given = [] if interactive else _read_messages(messages or STANDARD_INPUT)
    language_model = load(model, dtype)
    if "max_new_tokens" not in language_model.recommended:
        settings.setdefault("max_new_tokens", _answer_tokens(language_model))
    begin = [] if system is None else [{"role": "system", "content": system}]
    if interactive:
        # A model without a template, or with one that is wrong, says so before the first question is typed.
        language_model.chat_prompt([*begin, {"role": "user", "content": "?"}], template=settings.get("template"))
        Conversation(language_model, begin, settings).run()
    else:
        _answer(language_model, begin + given, as_json, settings)


class Conversation:
    """A conversation on a terminal.

    Args:
        model: what answers.
        begin: the messages that every conversation begins with.
        settings: of the answers.
    """

    def __init__(self, model: LanguageModel, begin: list[dict[str, str]], settings: dict[str, Any]) -> None:
        self.messages = list(begin)
        self._model = model
        self._begin = begin
        self._settings = settings

    def run(self) -> None:
        """Until /exit or the end of standard input."""
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (input() edits lines and remembers them where it is loaded)
        print("/exit leaves, /clear begins anew, Ctrl-C stops an answer.")
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print("\n(/exit leaves)")
                continue
            if line == "/exit":
                return
            if line == "/clear":
                self.messages = list(self._begin)
            elif line:
                self._turn(line)

    def _turn(self, line: str) -> None:
        """A question and its answer; where there is none the question is taken back."""
        from wordkiln.errors import WordkilnError

        self.messages.append({"role": "user", "content": line})
        answer = ""
        try:
            for piece in self._model.stream_chat(self.messages, **self._settings):
                answer += piece
                print(piece, end="", flush=True)
        except KeyboardInterrupt:  # it came while the prompt was made, or the terminal written to
            pass
        except WordkilnError as error:
            print(f"wordkiln: {error}", file=sys.stderr)
        print()
        if answer:
            self.messages.append({"role": "assistant", "content": answer})
        else:
            self.messages.pop()


def _answer(model: LanguageModel, messages: list[Any], as_json: bool, settings: dict[str, Any]) -> None:
    pieces = model.stream_chat(messages, **settings)
    text = ""
    for piece in pieces:
        text += piece
        if not as_json:
            print(piece, end="", flush=True)
    print(line_of({"role": "assistant", "content": text, "finish_reason": pieces.finish_reason}) if as_json else "")
    if pieces.finish_reason == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _read_messages(path: str) -> list[Any]:
    from wordkiln.errors import FormatError

    name = "standard input" if path == STANDARD_INPUT else path
    messages = parse(read_text(path), name)
    if isinstance(messages, dict) and "messages" in messages:
        messages = messages["messages"]
    if not isinstance(messages, list):
        raise FormatError(f'{name}: must be a JSON list of messages, {{"role": ..., "content": ...}} each')
    return messages


def _answer_tokens(model: LanguageModel) -> int:
    """Room for an answer, and in a model of few positions for a question too."""
    limit = model.model.max_positions
    return _ANSWER_TOKENS if limit is None else min(_ANSWER_TOKENS, max(1, limit // 2))
