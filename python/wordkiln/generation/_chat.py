"""Chats: messages become a prompt through the model's own template, under limits of time, memory and size."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wordkiln.errors import ArgumentError, DependencyError
from wordkiln.generation import _chat_process, _checks

MOST_TEMPLATE_CHARACTERS = 1 << 18
MOST_INPUT_CHARACTERS = 1 << 24
MOST_OUTPUT_CHARACTERS = 1 << 24
SECONDS = 10.0
_MEMORY = 1 << 30
# Of a private-use plane: cuts the text of a special token in a message, so that it is none.
_CUT = "\U0010f5fe"

Message = Mapping[str, Any]


def render_chat(
    tokenizer: Any,
    template: str | None,
    messages: Sequence[Message],
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> list[str]:
    """The prompt of a conversation, in pieces that are to be encoded each by itself, special tokens as their ids.

    Args:
        tokenizer: names the special tokens, and has the template where `template` is None.
        template: Jinja.
        messages: at least one, each with a "role".
        add_generation_prompt: whether the assistant's turn begins.
        variables: more for the template, such as tools.

    Raises:
        ArgumentError: the messages are no such list; there is no template; see `render`.
        DependencyError: jinja2 is not installed.
    """
    template = template or getattr(tokenizer, "chat_template", None)
    if template is None:
        raise ArgumentError("template: the model has no chat template of its own: give one, or use generate")
    given = {
        **_token_names(tokenizer),
        "messages": _disarm(check_messages(messages), getattr(tokenizer, "special_tokens", ())),
        "add_generation_prompt": bool(add_generation_prompt),
        **_disarm(dict(variables), getattr(tokenizer, "special_tokens", ())),
    }
    return render(template, given).split(_CUT)


def render(template: str, variables: Mapping[str, Any], seconds: float = SECONDS) -> str:
    """What a Jinja template gives, in a sandbox in another process.

    Args:
        template: at most `MOST_TEMPLATE_CHARACTERS`.
        variables: what it may use, as JSON can say it.
        seconds: after which it is stopped.

    Raises:
        ArgumentError: it is too long, wrong, or raises; it takes too much time or memory, or gives too much text.
        DependencyError: jinja2 is not installed.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise DependencyError("chat templates need jinja2: pip install 'wordkiln[chat]'")
    if len(template) > MOST_TEMPLATE_CHARACTERS:
        raise ArgumentError(f"chat template: {len(template)} characters: must be at most {MOST_TEMPLATE_CHARACTERS}")
    answer = _chat_process.answer(_request(template, variables, seconds), seconds, _MEMORY)
    if "error" in answer:
        raise ArgumentError(f"chat template: {answer['error']}")
    text: str = answer["text"]
    return text


def check_messages(messages: Any) -> list[dict[str, Any]]:
    """`messages`, copied.

    Raises:
        ArgumentError: they are no sequence of at least one mapping with a "role".
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise ArgumentError(
            f"messages={_checks.shown(messages)}: must be a list of at least one {{'role': ..., 'content': ...}}"
        )
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ArgumentError(
                f"messages[{place}]={_checks.shown(message)}: must have a 'role', such as 'user', and its 'content'"
            )
    return [dict(message) for message in messages]


def _token_names(tokenizer: Any) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like, as tokenizer_config.json has them."""
    names = {}
    for name, token in getattr(tokenizer, "settings", {}).items():
        content = token.get("content") if isinstance(token, dict) else token
        if name.endswith("_token") and isinstance(content, str):
            names[name] = content
    return names


def _disarm(value: Any, special_tokens: Iterable[str]) -> Any:
    """`value` with every special token in its strings cut, so that a message cannot forge the turn of another."""
    tokens = sorted(special_tokens, key=len, reverse=True)
    found = re.compile("|".join(map(re.escape, tokens))) if tokens else None

    def walk(part: Any) -> Any:
        if isinstance(part, str):
            part = part.replace(_CUT, "")
            return part if found is None else found.sub(lambda match: _CUT.join(_halves(match[0])), part)
        if isinstance(part, Mapping):
            return {walk(key): walk(item) for key, item in part.items()}
        if isinstance(part, (list, tuple)):
            return [walk(item) for item in part]
        return part

    try:
        return walk(value)
    except RecursionError:
        raise ArgumentError("messages: are nested too deeply") from None


def _halves(token: str) -> tuple[str, str]:
    return token[:1], token[1:]


def _request(template: str, variables: Mapping[str, Any], seconds: float) -> bytes:
    try:
        limits = {"seconds": seconds, "characters": MOST_OUTPUT_CHARACTERS}
        request = json.dumps({"template": template, "variables": variables, **limits})
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(f"messages: must be what JSON can say: {error}") from error
    if len(request) > MOST_INPUT_CHARACTERS:
        raise ArgumentError(
            f"messages: {len(request)} characters as JSON: must be at most {MOST_INPUT_CHARACTERS}, template included"
        )
    return request.encode()
