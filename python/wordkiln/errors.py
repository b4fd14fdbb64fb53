"""What Wordkiln raises. Each error also derives from the built-in class that callers would expect to catch."""

from __future__ import annotations

from typing import Any


class WordkilnError(Exception):
    """The root of all errors that Wordkiln raises on purpose."""


class ArgumentError(WordkilnError, ValueError):
    """An argument is out of its range or does not fit another. The message has the field, the value and the limit."""


class FormatError(WordkilnError, ValueError):
    """A file does not hold what it should: malformed, truncated, of another version, or of another model."""


class PathError(WordkilnError, OSError):
    """A path is missing, empty, of the wrong kind, or cannot be read or written."""


class DependencyError(WordkilnError, ImportError):
    """A part was used whose optional packages are not installed. The message gives the command that installs them."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while texts were being written. Not caught, it ends the program as any KeyboardInterrupt does.

    Attributes:
        completions: what was written until then, one for each text that had been begun, in order; those that were
            going have the finish_reason "interrupted". Of `beam` in the form that it returns.
    """

    def __init__(self, completions: list[Any]) -> None:
        super().__init__(f"interrupted; {len(completions)} texts in .completions")
        self.completions = completions
