"""`ops.attention`: the checks, which calls the kernel takes, and the kernel as a torch op with its gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._checks import check_tensor, dtype_name, kernel_lacks, warn_once

_LARGEST_HEAD = 256


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

    The kernel is tiled with an online softmax (Milakov and Gimelshein 2018, algorithm 3; Dao et al. 2022,
    algorithms 1 and 4) and never holds the [S, K] matrix. It takes float32 and float64 on the CPU, D up to 256, any
    strides whose last dimension is contiguous. `window`, `bias`, `dropout`, other dtypes and devices run on
    `ops.reference.attention`, with one warning.

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
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    if key_lengths is not None:
        key_lengths = key_lengths.to(q.device, torch.int64).contiguous()
    lacks = _kernel_lacks(q, window, bias, dropout)
    if lacks is not None:
        warn_once("attention", lacks)
        return reference.attention(q, k, v, causal, window, key_lengths, bias, scale, dropout)
    out: Tensor = _attention(q, k, v, key_lengths, causal, scale)[0]
    return out


def _kernel_lacks(q: Tensor, window: int | None, bias: Tensor | None, dropout: float) -> str | None:
    if window is not None:
        return "window"
    if bias is not None:
        return "bias"
    if dropout:
        return "dropout"
    if q.shape[-1] > _LARGEST_HEAD:
        return f"heads larger than {_LARGEST_HEAD}"
    return kernel_lacks(q)


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
    if head_size == 0:
        raise ArgumentError(f"q: shape {list(q.shape)} must have a head size of at least 1")
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
    if not isinstance(key_lengths, Tensor):
        raise ArgumentError(f"key_lengths: must be a torch.Tensor, not {type(key_lengths).__name__}")
    if key_lengths.is_floating_point() or key_lengths.is_complex() or key_lengths.dtype == torch.bool:
        raise ArgumentError(f"key_lengths: dtype {key_lengths.dtype} must be an integer one")
    if key_lengths.shape != (batch,):
        raise ArgumentError(f"key_lengths: shape {list(key_lengths.shape)} must be [{batch}]")
    if torch.compiler.is_compiling() or not batch:
        return  # the kernel checks the values as well
    least, most = (int(value) for value in key_lengths.aminmax())
    if least < 0 or most > keys:
        raise ArgumentError(f"key_lengths: {least if least < 0 else most} must be 0 to {keys}")


@torch.library.custom_op(
    "wordkiln::attention",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor q, Tensor k, Tensor v, Tensor? key_lengths, bool causal, float scale) -> (Tensor, Tensor)",
)
def _attention(
    q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    q, k, v = _contiguous_rows(q), _contiguous_rows(k), _contiguous_rows(v)
    out, lse = _empty_outputs(q)
    _kernels.attention_forward(
        dtype_name(q),
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        out.data_ptr(),
        lse.data_ptr(),
        0 if key_lengths is None else key_lengths.data_ptr(),
        _sizes(q, k),
        _strides(q),
        _strides(k),
        _strides(v),
        _strides(out),
        causal,
        scale,
    )
    return out, lse


@_attention.register_fake
def _attention_fake(
    q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    return _empty_outputs(_contiguous_rows(q))


@torch.library.custom_op(
    "wordkiln::attention_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor grad_out, Tensor? key_lengths, bool causal,"
    " float scale) -> (Tensor, Tensor, Tensor)",
)
def _attention_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    key_lengths: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v, out, grad_out = (_contiguous_rows(x) for x in (q, k, v, out, grad_out))
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q, k, v))
    _kernels.attention_backward(
        dtype_name(q),
        q.data_ptr(),
        k.data_ptr(),
        v.data_ptr(),
        out.data_ptr(),
        lse.data_ptr(),
        grad_out.data_ptr(),
        grad_q.data_ptr(),
        grad_k.data_ptr(),
        grad_v.data_ptr(),
        0 if key_lengths is None else key_lengths.data_ptr(),
        _sizes(q, k),
        _strides(q),
        _strides(k),
        _strides(v),
        _strides(out),
        _strides(grad_out),
        causal,
        scale,
    )
    return grad_q, grad_k, grad_v


@_attention_backward.register_fake
def _attention_backward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    key_lengths: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, key_lengths, ctx.causal, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(q, k, v, *output, key_lengths)


def _differentiate(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, key_lengths = ctx.saved_tensors
    grads = _attention_backward(q, k, v, out, lse, grad_out, key_lengths, ctx.causal, ctx.scale)
    return *grads, None, None, None


_attention.register_autograd(_differentiate, setup_context=_save)


def _contiguous_rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _empty_outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    # In q's own layout: [B, S, H, D] seen as [B, H, S, D] goes back to [B, S, H * D] without a copy.
    out = torch.empty_like(q)
    if q.shape[-1] != 1 and out.stride(-1) != 1:
        out = q.new_empty(q.shape)
    return out, q.new_empty(q.shape[:-1])


def _sizes(q: Tensor, k: Tensor) -> tuple[int, int, int, int, int, int]:
    return (q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3])


def _strides(x: Tensor) -> tuple[int, int, int]:
    return (x.stride(0), x.stride(1), x.stride(2))
