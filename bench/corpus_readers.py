"""Bytes of a packaged file to text: plain, dictionaries, manual pages, HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser


def plain(data: bytes) -> str:
    return data.decode("utf-8")


def damaged(data: bytes) -> str:
    return re.sub("[\x80-\x9f]", "", data.decode("utf-8", "replace").replace("\ufffd", "'"))


def glosses(data: bytes) -> str:
    """The definitions of a WordNet file, without its numbers."""
    return "\n\n".join(line.partition(" | ")[2].strip() for line in data.decode("utf-8", "replace").splitlines())


def roff(data: bytes) -> str:
    """A manual page without its macros; their arguments stay."""
    text = re.sub(r"(?m)^[.'](\\\"|ig|de|if|ie|el|tr|ds|nr|so|hy|ad).*\n", "", data.decode("utf-8"))
    text = re.sub(r"(?m)^[.']\s*(PP|P|LP|SH|SS|TP|IP)\b", "\n", text)
    text = re.sub(r"(?m)^[.']\s*[A-Za-z]{1,3}\b ?", "", text)
    text = re.sub(r"\\(f(\[[^]]*\]|\(..|.)|s[-+]?\d+|[&%/,|^:])", "", text)
    return re.sub(r"\\\((..)", _roff_character, text).replace("\\-", "-").replace("\\e", "\\")


def _roff_character(match: re.Match[str]) -> str:
    return {"aq": "'", "dq": '"', "bu": "•", "em": "—", "en": "–", "co": "©", "lq": "“", "rq": "”"}.get(match[1], "")


class _Text(HTMLParser):
    HIDDEN = frozenset({"script", "style", "nav", "header", "footer", "title", "aside"})
    PARAGRAPHS = frozenset(
        {"p", "div", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "ul", "ol", "dl", "table", "section"}
    )
    LINES = frozenset({"li", "dt", "dd", "tr", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.hidden = 0
        self.verbatim = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in self.HIDDEN
        self.verbatim += tag == "pre"
        self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in self.HIDDEN and self.hidden > 0
        self.verbatim -= tag == "pre" and self.verbatim > 0
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.pieces.append(data if self.verbatim else re.sub(r"\s+", " ", data))

    def _break(self, tag: str) -> None:
        if tag in self.PARAGRAPHS or tag in self.LINES:
            self.pieces.append("\n\n" if tag in self.PARAGRAPHS else "\n")


def html(data: bytes) -> str:
    parser = _Text()
    parser.feed(data.decode("utf-8"))
    text = re.sub(r"[ \t]*\n[ \t]?", "\n", "".join(parser.pieces))
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def translated(data: bytes) -> str:
    """A translated page without the paragraphs that nobody has translated."""
    paragraphs = html(data).split("\n\n")
    return "\n\n".join(paragraph for paragraph in paragraphs if len(paragraph) < 20 or not paragraph.isascii())
