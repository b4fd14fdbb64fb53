"""The naive definitions, in plain torch, that every kernel is tested against and falls back to.

They favour reading over speed and memory: `attention` holds the whole [S, K] matrix, the recurrences are Python
loops over time. Autograd differentiates them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from wordkiln.errors import ArgumentError
from wordkiln.ops._layer_norms import LayerNorms


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
    *,
    slopes: Tensor | None = None,
    soft_cap: float | None = None,
    return_lse: bool = False,
    seed: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1); arguments as `wordkiln.ops.attention`."""
    batch, heads, queries, size = q.shape
    scale = 1 / math.sqrt(size) if scale is None else scale
    factors = None
    if dropout:
        seed = torch.randint(2**32, (2,)) if seed is None else seed
        factors = dropout_factors(seed, dropout, batch, heads, queries, k.shape[2])
    both = _attend(q, k, v, causal, window, key_lengths, bias, scale, factors, slopes, soft_cap)
    return both if return_lse else both[0]


def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_offsets: Tensor,
    key_offsets: Tensor,
    causal: bool,
    window: int | None,
    scale: float,
    dropout: float = 0.0,
    *,
    slopes: Tensor | None = None,
    soft_cap: float | None = None,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`attention` of each text of one long row [1, H, queries or keys of all texts, D], one after the other."""
    outs, lses = [q[:, :, :0]], [q[:, :, :0, 0].to(torch.float32 if q.dtype.itemsize == 2 else q.dtype)]
    from_query, from_key = query_offsets.tolist(), key_offsets.tolist()
    for text in range(len(from_query) - 1):
        own_q = q[:, :, from_query[text] : from_query[text + 1]]
        own_k, own_v = (x[:, :, from_key[text] : from_key[text + 1]] for x in (k, v))
        factors = None
        if dropout and seed is not None:  # the counter holds row * H + head: this text is row `text`
            factors = dropout_factors(seed, dropout, text + 1, q.shape[1], own_q.shape[2], own_k.shape[2])[-1:]
        out, lse = _attend(own_q, own_k, own_v, causal, window, None, None, scale, factors, slopes, soft_cap)
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs, 2), torch.cat(lses, 2)


def attention_paged(
    q: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    page_table: Tensor,
    key_lengths: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    slopes: Tensor | None = None,
    soft_cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`attention` over the gathered cache, and its log-sum-exp; arguments as `wordkiln.ops.attention_paged`."""
    keys = page_table.shape[1] * key_pages.shape[1]
    held = torch.arange(keys, device=q.device) < key_lengths[:, None]
    needed = held[:, :: key_pages.shape[1]]
    outside = page_table[needed & ((page_table < 0) | (page_table >= key_pages.shape[0]))]
    if outside.numel():
        raise ArgumentError(f"page_table: {outside[0]} must be 0 to {key_pages.shape[0] - 1}")
    # What lies behind a row's keys may be anything, NaN too.
    k, v = (
        x.index_select(0, page_table.where(needed, 0).flatten()).view(len(q), keys, *x.shape[2:])
        .where(held[:, :, None, None], 0.0).transpose(1, 2)
        if x.numel() else x.new_zeros(len(q), x.shape[2], keys, x.shape[3])
        for x in (key_pages, value_pages)
    )  # fmt: skip
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return _attend(q, k, v, causal, window, key_lengths, None, scale, None, slopes, soft_cap)


def dropout_factors(seed: Tensor, dropout: float, batch: int, heads: int, queries: int, keys: int) -> Tensor:
    """What each weight [B, H, S, K] is multiplied with: 0 or 1 / (1 - dropout), float64.

    Key j of query i takes word (j % 64) // 16 of Philox4x32-10 (Salmon et al. 2011) with the counter
    (j // 64 * 16 + j % 16, i, row * H + head, offset) and the key `seed`, and is dropped if that word is less than
    dropout * 2^32.
    """
    value, offset = (int(x) for x in seed)
    key = torch.arange(keys)
    counter = [
        (key // 64 * 16 + key % 16).expand(batch * heads, queries, keys),
        torch.arange(queries)[:, None].expand(batch * heads, queries, keys),
        torch.arange(batch * heads)[:, None, None].expand(batch * heads, queries, keys),
        torch.full((batch * heads, queries, keys), offset % 2**32),
    ]
    words = torch.stack(_philox(counter, value % 2**64))
    word = words.gather(0, (key % 64 // 16).expand(1, batch * heads, queries, keys))[0]
    factors = (word >= int(dropout * 2**32)).double() / (1 - dropout)
    return factors.view(batch, heads, queries, keys)


def _philox(counter: list[Tensor], seed: int) -> list[Tensor]:
    mask = 2**32 - 1
    first_key, second_key = seed & mask, seed >> 32
    c0, c1, c2, c3 = counter
    for _ in range(10):
        high0, low0 = _multiply_wide(c0, 0xD2511F53)
        high2, low2 = _multiply_wide(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high2 ^ c1 ^ first_key, low2, high0 ^ c3 ^ second_key, low0
        first_key, second_key = first_key + 0x9E3779B9 & mask, second_key + 0xBB67AE85 & mask
    return [c0, c1, c2, c3]


def _multiply_wide(x: Tensor, y: int) -> tuple[Tensor, Tensor]:
    # The 64-bit product of 32-bit numbers in halves, in int64 without overflow.
    low, middle = x * (y & 0xFFFF), x * (y >> 16)
    middle = middle + (low >> 16)
    return middle >> 16, (middle & 0xFFFF) << 16 | low & 0xFFFF


def key_distances(queries: int, keys: int, key_lengths: Tensor | None, device: torch.device) -> Tensor:
    """How far behind the key at which query i stands key j lies (before: negative): [1 or B, S, K]."""
    lengths = torch.tensor([keys], device=device) if key_lengths is None else key_lengths.to(device)
    position = torch.arange(queries, device=device)[None, :, None] + lengths[:, None, None] - queries
    return torch.arange(keys, device=device) - position


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
    distance = key_distances(queries, keys, key_lengths, device)
    lengths = torch.tensor([keys], device=device) if key_lengths is None else key_lengths.to(device)
    mask = (torch.arange(keys, device=device) < lengths[:, None, None]).expand(-1, queries, -1)
    if causal:
        mask = mask & (distance <= 0)
    if window is not None:
        mask = mask & (distance.abs() < window)
    return mask[:, None]


def lstm(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
    lengths: Tensor | None = None,
    *,
    norms: LayerNorms | None = None,
    zoneout: tuple[float, float] = (0.0, 0.0),
    training: bool = True,
    seed: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer (Hochreiter and Schmidhuber 1997, forget gate of Gers et al. 2000); as `wordkiln.ops.lstm`."""
    h, c = (_zero_state(x, weight_hh),) * 2 if state is None else state
    gains = (None, None) if norms is None else (norms.gain_ih, norms.gain_hh)
    eps = 0.0 if norms is None else norms.eps
    kept_h, kept_c = zoneout_shares(seed, zoneout, training, (*x.shape[:2], weight_hh.shape[1]), x)
    outputs = []
    for t, step in enumerate(_product(x, weight_ih, bias_ih, gains[0], eps).unbind(0)):
        i, f, g, o = (step + _product(h, weight_hh, bias_hh, gains[1], eps)).chunk(4, -1)
        new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        shown = new_c
        if norms is not None:
            shown = F.layer_norm(new_c, new_c.shape[-1:], norms.gain_c, norms.bias_c, eps)
        new_h = o.sigmoid() * shown.tanh()
        c, _ = _where_it_goes_on(t, lengths, _zone_out(kept_c, t, new_c, c), c)
        h, output = _where_it_goes_on(t, lengths, _zone_out(kept_h, t, new_h, h), h)
        outputs.append(output)
    return _stack(outputs, x, h), (h, c)


def gru(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    norms: LayerNorms | None = None,
    zoneout: float = 0.0,
    training: bool = True,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One GRU layer (Cho et al. 2014, with the reset gate behind the product); as `wordkiln.ops.gru`."""
    h = _zero_state(x, weight_hh) if state is None else state
    gains = (None, None) if norms is None else (norms.gain_ih, norms.gain_hh)
    eps = 0.0 if norms is None else norms.eps
    (kept,) = zoneout_shares(seed, (zoneout,), training, (*x.shape[:2], weight_hh.shape[1]), x)
    outputs = []
    for t, step in enumerate(_product(x, weight_ih, bias_ih, gains[0], eps).unbind(0)):
        reset_x, update_x, new_x = step.chunk(3, -1)
        reset_h, update_h, new_h = _product(h, weight_hh, bias_hh, gains[1], eps).chunk(3, -1)
        update = (update_x + update_h).sigmoid()
        new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        h, output = _where_it_goes_on(t, lengths, _zone_out(kept, t, new + update * (h - new), h), h)
        outputs.append(output)
    return _stack(outputs, x, h), h


def zoneout_shares(
    seed: Tensor | None, zoneout: tuple[float, ...], training: bool, sizes: tuple[int, int, int], like: Tensor
) -> list[Tensor | None]:
    """For h and c the share of its value before the step that each element keeps, [T, B, H]; None: nothing.

    In training it is 0 or 1: row b counts in `dropout_factors` as 2 heads, h and c, a step as a query and a unit as a
    key, and keeps its value where the weight would be dropped. Else it is the probability (Krueger et al. 2017).
    """
    steps, batch, hidden = sizes
    if any(zoneout) and training and seed is None:
        seed = torch.randint(2**32, (2,), device="cpu")
    shares: list[Tensor | None] = []
    for part, probability in enumerate(zoneout):
        if not probability:
            shares.append(None)
        elif not training or seed is None:
            shares.append(like.new_full((1, 1, 1), probability).expand(steps, batch, hidden))
        else:
            factors = dropout_factors(seed, probability, batch, 2, steps, hidden)[:, part]
            shares.append((factors == 0).transpose(0, 1).to(like))
    return shares


def _zone_out(kept: Tensor | None, t: int, new: Tensor, old: Tensor) -> Tensor:
    return new if kept is None else kept[t] * old + (1 - kept[t]) * new


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None, eps: float) -> Tensor:
    """The product plus `bias`; with a gain the product is normalised first (Ba, Kiros and Hinton 2016, equation 20)."""
    if gain is None:
        return F.linear(x, weight, bias)
    return F.layer_norm(F.linear(x, weight), gain.shape, gain, bias, eps)


def rnn(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    state: Tensor | None = None,
    nonlinearity: str = "tanh",
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One layer of the plain recurrence (Elman 1990); as `wordkiln.ops.rnn`."""
    activation = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]
    h = _zero_state(x, weight_hh) if state is None else state
    outputs = []
    for t, step in enumerate(F.linear(x, weight_ih, bias_ih).unbind(0)):
        h, output = _where_it_goes_on(t, lengths, activation(step + F.linear(h, weight_hh, bias_hh)), h)
        outputs.append(output)
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


def gelu(x: Tensor, bias: Tensor | None = None, *, approximate: str = "none") -> Tensor:
    """GELU (Hendrycks and Gimpel 2016) of `x + bias`; arguments as `wordkiln.ops.gelu`."""
    return F.gelu(x if bias is None else x + bias, approximate=approximate)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up` (Shazeer 2020, equation 6)."""
    return F.silu(gate) * up


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
    """RMS normalisation (Zhang and Sennrich 2019, equation 4); arguments as `wordkiln.ops.rms_norm`."""
    total = x if residual is None else x + residual
    out = F.rms_norm(total, weight.shape, weight, eps)
    return out if residual is None else (out, total)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    window: int | None,
    key_lengths: Tensor | None,
    bias: Tensor | None,
    scale: float,
    factors: Tensor | None,
    slopes: Tensor | None,
    soft_cap: float | None,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp; `factors` of the weights are `dropout_factors`."""
    queries, keys = q.shape[2], k.shape[2]
    k, v = _repeat_heads(k, q.shape[1]), _repeat_heads(v, q.shape[1])
    scores = q @ k.transpose(-1, -2) * scale
    if soft_cap is not None:
        scores = soft_cap * (scores / soft_cap).tanh()
    if bias is not None:
        scores = scores + bias
    if slopes is not None:
        distance = key_distances(queries, keys, key_lengths, q.device).abs()
        scores = scores - slopes.to(scores)[:, None, None] * distance[:, None].to(scores)
    mask = visible_keys(queries, keys, causal, window, key_lengths, q.device)
    # A query that sees no key has no softmax: give it finite scores and drop its weights afterwards, so that its
    # output is 0 and no NaN enters the backward pass.
    sees = mask.any(-1, keepdim=True)
    scores = scores.masked_fill(~mask, -math.inf).masked_fill(~sees, 0.0)
    weights = scores.softmax(-1).masked_fill(~mask, 0.0)
    lse = (scores.float() if scores.dtype.itemsize == 2 else scores).logsumexp(-1)
    lse = lse.masked_fill(~sees.squeeze(-1), -math.inf)
    return (weights if factors is None else weights * factors.to(weights)) @ v, lse


def _repeat_heads(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _where_it_goes_on(t: int, lengths: Tensor | None, new: Tensor, old: Tensor) -> tuple[Tensor, Tensor]:
    """State and output at step t: rows behind their length keep `old` and put out 0."""
    if lengths is None:
        return new, new
    goes_on = (t < lengths)[:, None]
    return torch.where(goes_on, new, old), torch.where(goes_on, new, 0.0)


def _zero_state(x: Tensor, weight_hh: Tensor) -> Tensor:
    return x.new_zeros(x.shape[1], weight_hh.shape[1])


def _stack(outputs: list[Tensor], x: Tensor, h: Tensor) -> Tensor:
    return torch.stack(outputs) if outputs else x.new_zeros(0, *h.shape)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions; arguments as `wordkiln.ops.rotary`."""
    first, second = x.to(cos.dtype).chunk(2, -1)
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
