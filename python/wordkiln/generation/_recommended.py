"""What the makers of a model recommend (generation_config.json), in the places that a caller leaves open."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# Settings by which tokens are drawn. Who names one of them wants to draw, whatever the file says of do_sample.
_DRAWING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "mirostat_tau",
)


def with_recommended(
    given: Mapping[str, Any], recommended: Mapping[str, Any], known: Collection[str]
) -> dict[str, Any]:
    """`given`, and of `recommended` those settings that are not in it, as transformers' `generate` combines the two.

    do_sample=False in the file takes the most probable token each time, and its temperature, top_p and the like do not
    count, unless the caller names one of these. What the file does not name stays as it is here: transformers' unsaid
    top_k=50 is not applied.

    Args:
        given: what the caller names.
        recommended: see `OpenedModel.generation`.
        known: the settings of the method that is called; others do not concern it.
    """
    defaults = dict(recommended)
    if defaults.get("num_beams") == 1:  # says that there is no search, not how to search
        del defaults["num_beams"]
    if defaults.pop("do_sample", None) is False:
        defaults = {name: value for name, value in defaults.items() if name not in _DRAWING}
        if not any(name in given for name in _DRAWING):
            defaults["temperature"] = 0.0
    return {name: value for name, value in defaults.items() if name in known} | dict(given)
