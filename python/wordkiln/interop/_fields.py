"""Values of a file's description, each taken once, checked against its limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wordkiln.errors import FormatError
from wordkiln.models import _checks

# Largest value of each size, by transformers' names; checked before anything is allocated.
LIMITS = {
    "vocab_size": 2**24,
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**10,
    "num_key_value_heads": 2**10,
    "head_dim": 2**12,
    "intermediate_size": 2**18,
    "max_position_embeddings": 2**24,
}
_GPT2 = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
}
_MAX_IDS = 64


class Fields:
    """A mapping whose values are taken by name; what is left can be looked at afterwards."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __contains__(self, name: str) -> bool:
        """Whether a value is there that was not taken."""
        return name in self._values

    def take(self, name: str, default: Any = None) -> Any:
        """The value, or the default where it is missing or None."""
        value = self._values.pop(name, None)
        return default if value is None else value

    def size(self, name: str, default: int | None = None) -> int:
        """A size within its limit; it must be there where there is no default."""
        value = self.take(name, default)
        if value is None:
            raise FormatError(f"{name} is missing")
        return _checks.integer(name, value, 1, LIMITS[_GPT2.get(name, name)])

    def real(self, name: str, low: float, high: float, default: float) -> float:
        """A finite number."""
        return _checks.real(name, self.take(name, default), low, high)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise FormatError(f"{name}={_checks.shown(value)}: must be true or false")
        return value

    def ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One id, a list of them, or none."""
        value = self.take(name, [])
        values = value if isinstance(value, list) else [value]
        if len(values) > _MAX_IDS:
            raise FormatError(f"{name}: {len(values)} ids: must be at most {_MAX_IDS}")
        return tuple(dict.fromkeys(_checks.integer(name, id, 0, vocab_size - 1) for id in values))

    def rest(self) -> dict[str, Any]:
        """What was not taken."""
        return self._values
