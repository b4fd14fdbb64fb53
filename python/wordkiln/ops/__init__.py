"""The one gate from torch to the C++ kernels: each op checks its inputs, picks kernel or reference, differentiates.

Sizes in the docstrings: B batch rows, T time steps, S queries, K keys, H heads (attention) or hidden units
(recurrences), D head size, V vocabulary.
"""

from wordkiln.ops import _attention_cuda as _attention_cuda  # these register their kernels
from wordkiln.ops import _cell_cuda as _cell_cuda
from wordkiln.ops import _cross_entropy_cuda as _cross_entropy_cuda
from wordkiln.ops import _recurrent_cuda as _recurrent_cuda
from wordkiln.ops import reference
from wordkiln.ops._activation import gelu, swiglu
from wordkiln.ops._attention import attention, attention_varlen
from wordkiln.ops._attention_paged import attention_paged
from wordkiln.ops._layer_norms import LayerNorms
from wordkiln.ops._linear import PackedLinear, linear
from wordkiln.ops._linear_cross_entropy import linear_cross_entropy
from wordkiln.ops._norm import rms_norm
from wordkiln.ops._recurrence import gru, lstm, rnn
from wordkiln.ops._rotary import rotary

__all__ = [
    "LayerNorms",
    "PackedLinear",
    "attention",
    "attention_paged",
    "attention_varlen",
    "gelu",
    "gru",
    "linear",
    "linear_cross_entropy",
    "lstm",
    "reference",
    "rms_norm",
    "rnn",
    "rotary",
    "swiglu",
]
