"""`SamplingParams`: the settings of one row, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from wordkiln.errors import ArgumentError
from wordkiln.generation import _checks

_LARGEST_SEED = 2**64 - 1
_LARGEST_ID = 2**31 - 1
_LARGEST_FLOAT = 3.4e38


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one row are chosen. docs/sampling.md has the order and the definition of the stages.

    Attributes:
        temperature: logits are divided by it; 0 takes the highest logit (of equal ones the lowest id) and nothing is
            drawn. Default 1.0.
        top_k: keep the `top_k` most probable tokens; 0, the default, keeps all. (Fan et al. 2018, section 5.4.)
        top_p: keep the most probable tokens that together hold this probability, 0 to 1; 1.0, the default, keeps all,
            0 only the first. (Holtzman et al. 2020, "The curious case of neural text degeneration", section 3.1.)
        seed: which random sequence the row follows, 0 (the default) to 2**64 - 1.
        min_p: keep tokens at least `min_p` times as probable as the most probable one, 0 to 1; 0.0, the default, keeps
            all. (Nguyen et al. 2024, "Turning up the heat", section 3.)
        typical_p: keep the tokens whose surprise is nearest to the entropy and that together hold this probability, 0
            to 1; 1.0, the default, keeps all. (Meister et al. 2023, "Locally typical sampling", section 5.)
        top_n_sigma: keep logits at most this many standard deviations (of all logits) below the highest; 0.0, the
            default, keeps all. (Tang et al. 2024, "Top-n-sigma: not all logits are you need", section 3.)
        xtc_probability: how often, 0 to 1, all tokens of at least `xtc_threshold` but the least probable of them are
            dropped ("exclude top choices", P. E. Weidmann 2024); 0.0, the default, never.
        xtc_threshold: see there, 0 to 1; default 0.1. Above 0.5 nothing is ever dropped.
        mirostat_tau: the surprise per token, in bits, that mirostat 2.0 aims at (Basu et al. 2021); 0.0, the default,
            turns it off.
        mirostat_eta: how fast it learns, 0 or more; default 0.1.
        logit_bias: {id: what is added to its logit}; default none.
        repetition_penalty: logits of the tokens of prompt and text are divided by it where positive, else multiplied;
            above 0, 1.0, the default, changes none. (Keskar et al. 2019, "CTRL", section 4.1; Hugging Face's.)
        presence_penalty: taken off the logits of tokens that have been written, the prompt does not count; default 0.0.
            (OpenAI's and vLLM's.)
        frequency_penalty: the same, times how often they have been written; default 0.0.
        dry_multiplier: scale of the DRY penalty on tokens that would make a repetition longer (P. E. Weidmann 2024),
            in prompt and text: `dry_multiplier * dry_base ** (length - dry_allowed_length)`; 0.0, the default: none.
        dry_base: see there, above 0; default 1.75.
        dry_allowed_length: the shortest repetition that is penalised, 1 or more; default 2.
        dry_range: how many tokens back DRY looks; 0, the default: all.
        dry_breakers: ids over which no repetition reaches; default none.
        no_repeat_ngram_size: no run of this many tokens comes twice in prompt and text; 0, the default, allows all.
        banned_ids: ids that are never chosen.
        bad_words_ids: sequences of ids that are never completed (the last id of one that the text is about to end with
            is banned), each of one id or more.
        forced_ids: what the row starts with, whatever its logits; its mask, if any, has to allow them.
        min_new_tokens: none of `end_ids` is chosen before so many tokens have been; default 0.
        end_ids: the ids that end a text; the sampler only masks them, to stop is the caller's.
        logprobs: how many alternatives `Sampler.top_logprobs` gives; default 0.

    Raises:
        ArgumentError: a value is out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    _: dataclasses.KW_ONLY
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat_tau: float = 0.0
    mirostat_eta: float = 0.1
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict, hash=False)
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_range: int = 0
    dry_breakers: Sequence[int] = ()
    no_repeat_ngram_size: int = 0
    banned_ids: Sequence[int] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    forced_ids: Sequence[int] = ()
    min_new_tokens: int = 0
    end_ids: Sequence[int] = ()
    logprobs: int = 0

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {"seed": _checks.integer("seed", self.seed, 0, _LARGEST_SEED)}
        for name, (low, high) in _REALS.items():
            checked[name] = _checks.real(name, getattr(self, name), low, high)
        for name in ("repetition_penalty", "dry_base"):
            if checked[name] == 0:
                raise ArgumentError(f"{name}=0: must be a finite number above 0")
        for name, smallest in _INTEGERS.items():
            checked[name] = _checks.integer(name, getattr(self, name), smallest, _LARGEST_ID)
        for name in ("dry_breakers", "banned_ids", "forced_ids", "end_ids"):
            checked[name] = _ids(name, getattr(self, name))
        checked["bad_words_ids"] = _words("bad_words_ids", self.bad_words_ids)
        checked["logit_bias"] = _biases(self.logit_bias)
        for name, value in checked.items():
            object.__setattr__(self, name, value)


_REALS: dict[str, tuple[float, float | None]] = {
    "temperature": (0.0, None),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (0.0, None),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "mirostat_tau": (0.0, None),
    "mirostat_eta": (0.0, None),
    "repetition_penalty": (0.0, None),
    "presence_penalty": (-_LARGEST_FLOAT, _LARGEST_FLOAT),
    "frequency_penalty": (-_LARGEST_FLOAT, _LARGEST_FLOAT),
    "dry_multiplier": (0.0, None),
    "dry_base": (0.0, None),
}
_INTEGERS = {
    "top_k": 0,
    "dry_allowed_length": 1,
    "dry_range": 0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "logprobs": 0,
}


def _ids(name: str, ids: Any) -> tuple[int, ...]:
    if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
        raise ArgumentError(f"{name}: is {type(ids).__name__}: must be a sequence of ids")
    return tuple(_checks.integer(f"{name}[{index}]", token, 0, _LARGEST_ID) for index, token in enumerate(ids))


def _words(name: str, words: Any) -> tuple[tuple[int, ...], ...]:
    if isinstance(words, (str, bytes)) or not hasattr(words, "__iter__"):
        raise ArgumentError(f"{name}: is {type(words).__name__}: must be a sequence of sequences of ids")
    checked = tuple(_ids(f"{name}[{index}]", word) for index, word in enumerate(words))
    if () in checked:
        raise ArgumentError(f"{name}[{checked.index(())}]: is empty: must have one id or more")
    return checked


def _biases(biases: Any) -> dict[int, float]:
    if not isinstance(biases, Mapping):
        raise ArgumentError(f"logit_bias: is {type(biases).__name__}: must be a mapping of ids to numbers")
    return {
        _checks.integer("logit_bias: id", token, 0, _LARGEST_ID): _checks.real(
            f"logit_bias[{token}]", bias, -_LARGEST_FLOAT, _LARGEST_FLOAT
        )
        for token, bias in biases.items()
    }
