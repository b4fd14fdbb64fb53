"""The settings of one call: what there is, and what each may be. Every method that writes takes the same ones."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks
from wordkiln.generation._params import SamplingParams

SpecialTokens = Literal["error", "ids", "text"]
Seed = int | Sequence[int] | None

_MOST_TOP_LOGPROBS = 1000


class SamplingSettings(TypedDict, total=False):
    """Fields of `SamplingParams`, which says what each means."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: Mapping[int, float]
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_range: int
    dry_breakers: Sequence[int]
    no_repeat_ngram_size: int
    banned_ids: Sequence[int]
    bad_words_ids: Sequence[Sequence[int]]
    forced_ids: Sequence[int]
    min_new_tokens: int


class GenerationSettings(SamplingSettings, total=False):
    """All that `generate`, `stream`, `batch` and `chat` take by name; `SamplingParams` has those that are not here.

    Attributes:
        max_new_tokens: most tokens to write, 1 or more. Default 128.
        seed: the random sequence of a prompt: an int (for several prompts the same: a prompt then gets the same text in
            whatever batch it stands), one int per prompt, or None, the default: a fresh one. Sample j > 0 of a prompt
            follows `derive_seed(seed, j)`, sample 0 the seed itself.
        stop: a string or several that end the text; they are not part of it.
        stop_ids: tokens that end the text; they are not part of it.
        bad_words: texts that are never written, with or without a space before them (what the tokenizer may spell in
            another way still is: `bad_words_ids` takes ids).
        schema: a JSON schema, as text or as Python has it: the text is JSON that it accepts.
        regex: a regular expression that the whole text matches.
        choices: strings, of which the text is one.
        grammar: a Lark grammar (llguidance's kind) that the text follows. At most one of these four
            (docs/constraints.md).
        logprobs: give that many most probable tokens at each step too (`Completion.top_logprobs`); default 0.
        prompt_logprobs: give the log-probability of each token of the prompt too; default False.
        truncate: "left": of a prompt that leaves no room for `max_new_tokens`, take the end that does; None, the
            default: such a prompt is an error.
        special_tokens: what the text of a special token in a prompt is: "error", the default; "ids": its id; "text":
            ordinary text.
    """

    max_new_tokens: int
    seed: Seed
    stop: str | Sequence[str]
    stop_ids: Sequence[int]
    bad_words: Sequence[str]
    schema: str | Mapping[str, Any] | bool | None
    regex: str | None
    choices: Sequence[str] | None
    grammar: str | None
    logprobs: int
    prompt_logprobs: bool
    truncate: Literal["left"] | None
    special_tokens: SpecialTokens


SETTING_NAMES = frozenset(SamplingSettings.__annotations__ | GenerationSettings.__annotations__)


@dataclasses.dataclass(frozen=True)
class Settings:
    """`GenerationSettings`, checked; each has its value here. Of `sampling` the fields that a caller names."""

    sampling: SamplingParams
    max_new_tokens: int = 128
    seed: Seed = None
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    bad_words: tuple[str, ...] = ()
    schema: str | Mapping[str, Any] | bool | None = None
    regex: str | None = None
    choices: Sequence[str] | None = None
    grammar: str | None = None
    logprobs: int = 0
    prompt_logprobs: bool = False
    truncate: Literal["left"] | None = None
    special_tokens: SpecialTokens = "error"

    @classmethod
    def check(cls, given: dict[str, Any], vocab_size: int) -> Settings:
        """The settings as a caller named them.

        Raises:
            ArgumentError: one is unknown, or out of its range.
        """
        check_names(given, SETTING_NAMES)
        sampling_names = SamplingSettings.__annotations__.keys()
        sampling = SamplingParams(**{name: value for name, value in given.items() if name in sampling_names})
        own = {name: value for name, value in given.items() if name not in sampling_names}
        for name, check in _CHECKS.items():
            if name in own:
                own[name] = check(name, own[name])
        for token_id in own.get("stop_ids", ()):
            if token_id >= vocab_size:
                raise ArgumentError(f"stop_ids: {token_id}: must be 0 to {vocab_size - 1}")
        return cls(sampling, **own)


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Whether every setting is one.

    Raises:
        ArgumentError: one is none; the nearest that is one is named.
    """
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            advice = f": did you mean {nearest[0]}?" if nearest else f"; there are {', '.join(sorted(known))}"
            raise ArgumentError(f"{name}: is no setting{advice}")


def _ids(name: str, value: Any) -> frozenset[int]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise ArgumentError(f"{name}={_checks.shown(value)}: must be a sequence of ids")
    return frozenset(_checks.integer(f"{name}[{place}]", item, 0) for place, item in enumerate(value))


def _one_of(allowed: tuple[Any, ...]) -> Any:
    def check(name: str, value: Any) -> Any:
        if not any(value is choice or (isinstance(value, str) and value == choice) for choice in allowed):
            raise ArgumentError(f"{name}={_checks.shown(value)}: must be one of {', '.join(map(repr, allowed))}")
        return value

    return check


_CHECKS: dict[str, Any] = {
    "max_new_tokens": lambda name, value: _checks.integer(name, value, 1),
    "stop": _checks.strings,
    "bad_words": _checks.strings,
    "stop_ids": _ids,
    "logprobs": lambda name, value: _checks.integer(name, value, 0, _MOST_TOP_LOGPROBS),
    "prompt_logprobs": _one_of((True, False)),
    "truncate": _one_of(("left", None)),
    "special_tokens": _one_of(get_args(SpecialTokens)),
}
