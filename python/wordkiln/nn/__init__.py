"""Drop-in modules over `wordkiln.ops`."""

from wordkiln.nn._rnn import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN"]
