"""Finished models on numpy arrays and our kernels, without torch: `DecoderModel` for Transformers of any file that
`interop` opens, `load_model` for the checkpoint directory of a recurrent one.
"""

from wordkiln.runtime._decoder import DecoderModel
from wordkiln.runtime._kernel_calls import instruction_sets
from wordkiln.runtime._recurrent_model import RecurrentModel, load_model
from wordkiln.runtime.architecture import Architecture, TensorSource

__all__ = ["Architecture", "DecoderModel", "RecurrentModel", "TensorSource", "instruction_sets", "load_model"]
