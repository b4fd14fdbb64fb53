"""`ops.attention`: which calls the kernel takes, and the checks before it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._checks import check_tensor


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
    """Scaled dot-product attention: `softmax(scale * q @ k.T + bias) @ v`, with grouped heads.

    The kernel is tiled with an online softmax (Dao et al. 2022, algorithm 1; Dao 2023 for the backward pass) and
    never holds the [S, K] matrix. It takes float32 and float64 on the CPU, D up to 256; `window`, `bias`,
    `dropout`, other dtypes and devices run on `ops.reference.attention`, with one warning.

    Args:
        q: [B, H, S, D].
        k: [B, Hkv, K, D], H a multiple of Hkv: each key head serves H / Hkv query heads.
        v: [B, Hkv, K, D].
        causal: query i sees keys j <= i + (K - S): the last query stands at the last key. Default True.
        window: a query sees only keys nearer than this to its own position. Default None: all.
        key_lengths: integers [B], 0 to K: row b has only its first key_lengths[b] keys (and K above is this number).
        bias: added to the scores, broadcastable to [B, H, S, K].
        scale: default 1 / sqrt(D).
        dropout: probability to drop a weight, 0 <= dropout < 1. Applied whenever it is not 0. Default 0.

    Returns:
        [B, H, S, D]; 0 where a query sees no key.

    Raises:
        ArgumentError: shapes, dtypes, devices or ranges do not fit.
    """
    _check(q, k, v, window, key_lengths, bias, dropout)
    scale = 1 / math.sqrt(max(1, q.shape[-1])) if scale is None else float(scale)
    return reference.attention(q, k, v, causal, window, key_lengths, bias, scale, dropout)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None,
    key_lengths: Tensor | None,
    bias: Tensor | None,
    dropout: float,
) -> None:
    check_tensor("q", q, (None, None, None, None))
    batch, heads, queries, head_size = q.shape
    check_tensor("k", k, (batch, None, None, head_size), like=q)
    kv_heads, keys = k.shape[1], k.shape[2]
    check_tensor("v", v, (batch, kv_heads, keys, head_size), like=q)
    if kv_heads == 0 or heads % kv_heads:
        raise ArgumentError(f"q: {heads} heads must be a multiple of the {kv_heads} key heads")
    if window is not None and window < 1:
        raise ArgumentError(f"window={window}: must be at least 1")
    if not 0 <= dropout < 1:
        raise ArgumentError(f"dropout={dropout}: must be at least 0 and less than 1")
    if key_lengths is not None:
        _check_lengths(key_lengths, batch, keys)
    if bias is not None:
        check_tensor("bias", bias, (None,) * bias.dim(), like=q)
        try:
            bias.expand(batch, heads, queries, keys)
        except RuntimeError:
            wanted = [batch, heads, queries, keys]
            raise ArgumentError(f"bias: shape {list(bias.shape)} must broadcast to {wanted}") from None


def _check_lengths(key_lengths: Tensor, batch: int, keys: int) -> None:
    if key_lengths.dtype.is_floating_point or key_lengths.dtype in (torch.bool, torch.complex64, torch.complex128):
        raise ArgumentError(f"key_lengths: dtype {key_lengths.dtype} must be an integer one")
    if key_lengths.shape != (batch,):
        raise ArgumentError(f"key_lengths: shape {list(key_lengths.shape)} must be [{batch}]")
