"""Models of others: what is in a Hugging Face directory or a GGUF file, as the runtime takes it. No torch."""

from wordkiln.interop._gguf_export import export_gguf
from wordkiln.interop._open import open_model
from wordkiln.interop._opened import OpenedModel

__all__ = ["OpenedModel", "export_gguf", "open_model"]
