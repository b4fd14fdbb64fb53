"""Whole jobs, from text to a finished model."""

from wordkiln.tasks.language_modelling import train_language_model

__all__ = ["train_language_model"]
