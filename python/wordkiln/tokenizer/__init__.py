"""Text to ids and back: byte-level BPE, trained here or read from Hugging Face and tiktoken files."""

from wordkiln._rust import DecodeStream
from wordkiln.tokenizer._tokenizer import PATTERNS, Tokenizer

__all__ = ["PATTERNS", "DecodeStream", "Tokenizer"]
