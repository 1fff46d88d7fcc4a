"""Recurrent layers with their Gemms in few bits: RNN, LSTM, GRU and their cells."""

from nybble.nn.recurrent.gemm import RecurrentGemm
from nybble.nn.recurrent.layer import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    Recurrent,
    RNNCell,
    attach_gemm,
    gemm_names,
    recurrent_class,
    top_names,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "RecurrentGemm",
    "attach_gemm",
    "gemm_names",
    "recurrent_class",
    "top_names",
]
