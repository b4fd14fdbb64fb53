"""The options that every command that writes text has, each a setting of `wordkiln.generation` by the same name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wordkiln.cli._files import read_text

Model = Annotated[
    Path, typer.Argument(help="A checkpoint, a run of `wordkiln train`, a Hugging Face directory, or a .gguf file.")
]
DType = Annotated[
    Literal["float32", "bfloat16", "int8"], typer.Option(help="Of the weights in memory.", show_choices=True)
]

_PANEL = "Settings (docs/generation.md and docs/sampling.md say more)"

# Name -> type, help. Left out, a setting has what the model's makers recommend, else the library's default, which the
# help names.
SETTINGS: dict[str, tuple[Any, str]] = {
    "max_new_tokens": (int, "Most tokens to write. Default 128; chat 512."),
    "temperature": (float, "Higher is wilder; 0 always takes the most probable token. Default 1."),
    "top_k": (int, "Choose among this many most probable tokens; 0: all. Default 0."),
    "top_p": (float, "Choose among the most probable tokens that hold this probability. Default 1."),
    "min_p": (float, "Drop tokens less probable than this share of the most probable one. Default 0."),
    "typical_p": (float, "Choose among the most typical tokens that hold this probability. Default 1."),
    "top_n_sigma": (float, "Drop logits so many standard deviations below the highest; 0: none. Default 0."),
    "xtc_probability": (float, "How often the most probable tokens are left out. Default 0."),
    "xtc_threshold": (float, "From which probability on. Default 0.1."),
    "mirostat_tau": (float, "Surprise per token, in bits, that mirostat 2 aims at; 0: off. Default 0."),
    "repetition_penalty": (float, "Above 1: what was there before becomes less likely. Default 1."),
    "presence_penalty": (float, "Taken off the logits of what was written before. Default 0."),
    "frequency_penalty": (float, "The same for each time. Default 0."),
    "dry_multiplier": (float, "Scale of the DRY penalty on longer repetitions; 0: none. Default 0."),
    "no_repeat_ngram_size": (int, "No run of so many tokens comes twice; 0: any may. Default 0."),
    "min_new_tokens": (int, "The text does not end before so many tokens. Default 0."),
    "seed": (int, "The same seed gives the same text; without it, a new one each time."),
    "stop": (list[str], "A string that ends the text; repeat for more."),
    "bad_words": (list[str], "A text that is never written; repeat for more."),
    "schema": (str, "The text is JSON of this schema: JSON, or @FILE."),
    "regex": (str, "The text matches this regular expression."),
    "choices": (list[str], "The text is this one; repeat for more to choose from."),
    "grammar": (str, "The text follows this Lark grammar: the grammar, or @FILE."),
    "logprobs": (int, "Give so many most probable tokens of each step too (with --json). Default 0."),
    "truncate": (str, "'left' drops the beginning of a prompt that is too long. Left out, it is refused."),
    "special_tokens": (str, "Special tokens in a prompt: error, ids or text. Default error."),
}

_MAY_BE_A_FILE = {"schema", "grammar"}


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were used: the others are left to what the model's makers recommend, then to the library."""
    return {name: value for name, value in options.items() if value not in (None, [])}


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with a parameter `settings` an option for each of `SETTINGS`; it gets those that were used."""

    @functools.wraps(command)
    def with_settings(**arguments: Any) -> None:
        used = given({name: arguments.pop(name) for name in SETTINGS})
        for name in _MAY_BE_A_FILE & used.keys():
            if used[name].startswith("@"):
                used[name] = read_text(used[name][1:])
        command(**arguments, settings=used)

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "settings"]
    parameters = [*own, *(_parameter(name, kind, help_) for name, (kind, help_) in SETTINGS.items())]
    with_settings.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # what typer reads
    # typer would read these in the place of the signature's.
    with_settings.__annotations__ = {}
    del with_settings.__wrapped__
    return with_settings


def _parameter(name: str, kind: Any, help_: str) -> inspect.Parameter:
    option = typer.Option(help=help_, rich_help_panel=_PANEL, show_default=False)
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
