"""Stop strings in a text that arrives piece by piece: nothing is shown that a stop string may turn out to cover."""

from __future__ import annotations


class StopMatcher:
    """Lets text through up to the first of some stop strings.

    Attributes:
        found: whether a stop string has come; nothing is let through after it.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Take the next piece; the text that is now certain to lie before any stop string."""
        if self.found or not piece:
            return ""
        text = self._held + piece
        starts = [start for start in map(text.find, self._stops) if start >= 0]
        if starts:
            self.found = True
            self._held = ""
            return text[: min(starts)]
        shown = len(text) - self._length_of_a_beginning(text)
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """No piece will come: what was held back as the beginning of a stop string was none."""
        held, self._held = self._held, ""
        return held

    def _length_of_a_beginning(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
