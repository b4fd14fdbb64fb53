"""Text files to token shards on disk, and batches from them. Needs no torch."""

from wordkiln.data.batches import Batch, Batches, ContiguousBatches, RandomWindows
from wordkiln.data.corpus import Corpus, Piece, find_files
from wordkiln.data.dataset import TokenDataset
from wordkiln.data.shards import Split

__all__ = [
    "Batch",
    "Batches",
    "ContiguousBatches",
    "Corpus",
    "Piece",
    "RandomWindows",
    "Split",
    "TokenDataset",
    "find_files",
]
