"""tokenizer_config.json and chat_template.jinja: what lies beside a tokenizer.json and is not about ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from wordkiln import _files
from wordkiln.errors import FormatError
from wordkiln.tokenizer._core import read_bytes

_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_LIMIT = 64 << 20


@dataclass(frozen=True)
class Settings:
    """The two files as they are; None for one that is not there."""

    config: bytes | None = None
    template: bytes | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What is in the folder.

        Raises:
            PathError: A file cannot be read.
            FormatError: It is no JSON object, or the template is not UTF-8.
        """
        config, template = (_read(folder / name) for name in (_CONFIG, _TEMPLATE))
        settings = cls(config, template)
        try:
            settings.as_dict()
        except FormatError as error:
            raise FormatError(f"{folder / _CONFIG}: {error}") from None
        try:
            (template or b"").decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{folder / _TEMPLATE}: is not UTF-8: {error}") from None
        return settings

    def save(self, folder: Path) -> None:
        """Write what there is into the folder."""
        for name, content in ((_CONFIG, self.config), (_TEMPLATE, self.template)):
            if content is not None:
                _files.write_file(folder / name, content)

    def as_dict(self) -> dict[str, Any]:
        """tokenizer_config.json, read.

        Raises:
            FormatError: It is no JSON object.
        """
        if self.config is None:
            return {}
        try:
            value = json.loads(self.config)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"is no JSON: {type(error).__name__}: {error}") from None
        if not isinstance(value, dict):
            raise FormatError("is no JSON object")
        return value

    def chat_template(self) -> str | None:
        """The template: chat_template.jinja, else the one in tokenizer_config.json, of several the "default"."""
        if self.template is not None:
            return self.template.decode()
        found = self.as_dict().get("chat_template")
        if isinstance(found, list):
            named = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None

    def with_chat_template(self, template: str | None) -> Self:
        """The same with another template, or without one."""
        config = {key: value for key, value in self.as_dict().items() if key != "chat_template"}
        if template is not None and self.template is None:
            config["chat_template"] = template
        return type(self)(
            self.config if config == self.as_dict() else _dumped(config),
            None if template is None or self.template is None else template.encode(),
        )

    def special_id(self, name: str, specials: Mapping[str, int]) -> int | None:
        """The id of what tokenizer_config.json calls, for example, "pad_token"."""
        token = self.as_dict().get(name)
        content = token.get("content") if isinstance(token, dict) else token
        return specials.get(content) if isinstance(content, str) else None


def _dumped(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def _read(path: Path) -> bytes | None:
    if not path.is_file():
        return None
    try:
        return read_bytes(path, _LIMIT)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
