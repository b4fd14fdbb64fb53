"""A finished model writes here: `load` gives a `LanguageModel`; `Sampler` is the part that chooses tokens."""

from wordkiln.errors import Interrupted
from wordkiln.generation._beam import BeamParams, Hypothesis, beam_search
from wordkiln.generation._constraint import Constraint, ConstraintMatcher, fill_masks
from wordkiln.generation._load import load
from wordkiln.generation._model import LanguageModel
from wordkiln.generation._prompt import derive_seed
from wordkiln.generation._row import Completion
from wordkiln.generation._sampler import Sampler, SamplingParams
from wordkiln.generation._scores import NextToken, TextScore
from wordkiln.generation._searching import BeamCompletion, BeamSettings
from wordkiln.generation._settings import GenerationSettings
from wordkiln.generation._stream import TextStream
from wordkiln.generation.protocol import StepModel

__all__ = [
    "BeamCompletion",
    "BeamParams",
    "BeamSettings",
    "Completion",
    "Constraint",
    "ConstraintMatcher",
    "GenerationSettings",
    "Hypothesis",
    "Interrupted",
    "LanguageModel",
    "NextToken",
    "Sampler",
    "SamplingParams",
    "StepModel",
    "TextScore",
    "TextStream",
    "beam_search",
    "derive_seed",
    "fill_masks",
    "load",
]
