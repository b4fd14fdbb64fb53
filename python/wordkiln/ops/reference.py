"""The naive definitions, in plain torch, that every kernel is tested against and falls back to.

They favour reading over speed and memory: `attention` holds the whole [S, K] matrix, the recurrences are Python
loops over time. Autograd differentiates them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = True,
    window: int | None = None,
    key_lengths: Tensor | None = None,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1); arguments as `wordkiln.ops.attention`."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    k, v = _repeat_heads(k, q.shape[1]), _repeat_heads(v, q.shape[1])
    scores = q @ k.transpose(-1, -2) * scale
    if bias is not None:
        scores = scores + bias
    mask = visible_keys(q.shape[2], k.shape[2], causal, window, key_lengths, q.device)
    # A query that sees no key has no softmax: give it finite scores and drop its weights afterwards, so that its
    # output is 0 and no NaN enters the backward pass.
    scores = scores.masked_fill(~mask, -math.inf).masked_fill(~mask.any(-1, keepdim=True), 0.0)
    weights = scores.softmax(-1).masked_fill(~mask, 0.0)
    return F.dropout(weights, dropout) @ v


def visible_keys(
    queries: int,
    keys: int,
    causal: bool,
    window: int | None,
    key_lengths: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Which query sees which key: bool, broadcastable to [B, H, S, K].

    The last query stands at the row's last key (bottom-right alignment), so query i stands at key `i + length - S`.
    It sees keys before `length`, none after itself if `causal`, and only those nearer than `window`.
    """
    lengths = torch.tensor([keys], device=device) if key_lengths is None else key_lengths.to(device)
    lengths = lengths[:, None, None]
    key = torch.arange(keys, device=device)[None, None, :]
    position = torch.arange(queries, device=device)[None, :, None] + lengths - queries
    mask = (key < lengths).expand(-1, queries, -1)
    if causal:
        mask = mask & (key <= position)
    if window is not None:
        mask = mask & ((key - position).abs() < window)
    return mask[:, None]


def lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer (Hochreiter and Schmidhuber 1997, forget gate of Gers et al. 2000); as `wordkiln.ops.lstm`."""
    h, c = (_zero_state(x, weight_hh),) * 2 if state is None else state
    outputs = []
    for step in F.linear(x, weight_ih, bias_ih).unbind(0):
        i, f, g, o = (step + F.linear(h, weight_hh, bias_hh)).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outputs.append(h)
    return _stack(outputs, x, h), (h, c)


def gru(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One GRU layer (Cho et al. 2014, with the reset gate behind the product); as `wordkiln.ops.gru`."""
    h = _zero_state(x, weight_hh) if state is None else state
    outputs = []
    for step in F.linear(x, weight_ih, bias_ih).unbind(0):
        reset_x, update_x, new_x = step.chunk(3, -1)
        reset_h, update_h, new_h = F.linear(h, weight_hh, bias_hh).chunk(3, -1)
        update = (update_x + update_h).sigmoid()
        new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        h = new + update * (h - new)
        outputs.append(h)
    return _stack(outputs, x, h), h


def rnn(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: Tensor | None = None,
    nonlinearity: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """One layer of the plain recurrence (Elman 1990); as `wordkiln.ops.rnn`."""
    activation = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]
    h = _zero_state(x, weight_hh) if state is None else state
    outputs = []
    for step in F.linear(x, weight_ih, bias_ih).unbind(0):
        h = activation(step + F.linear(h, weight_hh, bias_hh))
        outputs.append(h)
    return _stack(outputs, x, h), h


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of `F.linear(hidden, weight, bias)`; arguments as `wordkiln.ops.linear_cross_entropy`."""
    logits = F.linear(hidden, weight, bias).reshape(targets.numel(), weight.shape[0])
    losses = F.cross_entropy(
        logits, targets.flatten(), ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none"
    )
    counts = targets.flatten() != ignore_index
    if z_loss:
        losses = losses + z_loss * (logits.logsumexp(1) ** 2).where(counts, 0.0)
    return losses.sum() / counts.sum() if reduction == "mean" else losses.sum()


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up` (Shazeer 2020, equation 6)."""
    return F.silu(gate) * up


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
    """RMS normalisation (Zhang and Sennrich 2019, equation 4); arguments as `wordkiln.ops.rms_norm`."""
    total = x if residual is None else x + residual
    out = F.rms_norm(total, weight.shape, weight, eps)
    return out if residual is None else (out, total)


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _zero_state(x: Tensor, weight_hh: Tensor) -> Tensor:
    return x.new_zeros(x.shape[1], weight_hh.shape[1])


def _stack(outputs: list[Tensor], x: Tensor, h: Tensor) -> Tensor:
    return torch.stack(outputs) if outputs else x.new_zeros(0, *h.shape)
