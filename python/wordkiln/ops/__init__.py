"""The one gate from wordkiln.ops import reference
from wordkiln.ops._attention import attention, attention_varlen
from wordkiln.ops._linear import linear
from wordkiln.ops._linear_cross_entropy import linear_cross_entropy
from wordkiln.ops._lstm import lstm
from wordkiln.ops._recurrence import gru, rnn
from wordkiln.ops._rotary import rotary

__all__ = [
    "attention",
    "attention_varlen",
    "gru",
    "linear",
    "linear_cross_entropy",
    "lstm",
    "reference",
    "rnn",
    "rotary",
]
