"""The attention kernel as a torch op with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.ops._checks import dtype_name
from wordkiln.ops._op import op

_INPUTS = (
    "Tensor? key_lengths, Tensor? bias, Tensor? slopes, Tensor? seed, Tensor? query_offsets, Tensor? key_offsets,"
    " bool causal, int window, float scale, float soft_cap, float dropout"
)


@op(
    "wordkiln::attention",
    schema=f"(Tensor q, Tensor k, Tensor v, {_INPUTS}) -> (Tensor, Tensor)",
)
def attention_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_lengths: Tensor | None,
    bias: Tensor | None,
    slopes: Tensor | None,
    seed: Tensor | None,
    query_offsets: Tensor | None,
    key_offsets: Tensor | None,
    causal: bool,
    window: int,
    scale: float,
    soft_cap: float,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Out and lse of checked inputs.

    0 stands for no window and no cap; offsets go with a batch of one long row. The log-sum-exp has a gradient.
    """
    if not q.stride(-1) == k.stride(-1) == v.stride(-1) == 1:
        q, k, v = contiguous_rows(q), contiguous_rows(k), contiguous_rows(v)
    bias = None if bias is None else contiguous_rows(bias)
    out, lse = empty_outputs(q)
    _kernels.attention_forward_tensors(
        q, k, v, out, lse, key_lengths, bias, slopes, query_offsets, key_offsets,
        causal, window, scale, soft_cap, dropout, *seed_and_offset(seed),
    )  # fmt: skip
    return out, lse


@attention_kernel.register_fake
def _attention_fake(q: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return empty_outputs(contiguous_rows(q))


@op(
    "wordkiln::attention_backward",
    schema="(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor grad_out, Tensor? grad_lse,"
    f" bool needs_bias, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def attention_backward_kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    needs_bias: bool,
    key_lengths: Tensor | None,
    bias: Tensor | None,
    slopes: Tensor | None,
    seed: Tensor | None,
    query_offsets: Tensor | None,
    key_offsets: Tensor | None,
    causal: bool,
    window: int,
    scale: float,
    soft_cap: float,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v and, where it is needed, of the bias (else an empty tensor)."""
    q, k, v, out, grad_out = (contiguous_rows(x) for x in (q, k, v, out, grad_out))
    bias = None if bias is None else contiguous_rows(bias)
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    slopes = for_kernel(slopes, q)
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q, k, v))
    # Sums over rows of the batch are kept in the dtype that kernels compute in.
    grad_bias = _empty_bias(lse, bias, needs_bias).zero_()
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
        address(key_lengths),
        sizes_of(q, k, query_offsets),
        strides_of(q, query_offsets),
        strides_of(k, query_offsets),
        strides_of(v, query_offsets),
        strides_of(out, query_offsets),
        strides_of(grad_out, query_offsets),
        causal,
        scale,
        window,
        soft_cap,
        address(bias),
        bias_strides(bias),
        address(slopes),
        dropout,
        *seed_and_offset(seed),
        address(query_offsets),
        address(key_offsets),
        address(grad_lse),
        grad_bias.data_ptr() if needs_bias else 0,
        bias_strides(grad_bias if needs_bias else None),
    )
    return grad_q, grad_k, grad_v, grad_bias


@attention_backward_kernel.register_fake
def _attention_backward_fake(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None,
    needs_bias: bool, key_lengths: Tensor | None, bias: Tensor | None, *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grads = (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape))
    return *grads, _empty_bias(lse, bias, needs_bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.options = inputs[9:]
    ctx.save_for_backward(*inputs[:9], *output)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, key_lengths, bias, *rest, out, lse = ctx.saved_tensors
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    needs_bias = bias is not None and ctx.needs_input_grad[4]
    *grads, grad_bias = attention_backward_kernel(
        q, k, v, out, lse, grad_out, grad_lse, needs_bias, key_lengths, bias, *rest, *ctx.options
    )
    return *grads, None, grad_bias.to(bias.dtype) if needs_bias else None, *(None,) * 9


attention_kernel.register_autograd(_differentiate, setup_context=_save)


def address(x: Tensor | None) -> int:
    """Of its elements, 0 where there is no tensor."""
    return 0 if x is None else x.data_ptr()


def for_kernel(slopes: Tensor | None, q: Tensor) -> Tensor | None:
    """ALiBi's slopes as kernels read them that get an address."""
    return None if slopes is None else slopes.to(q.device, torch.float64).contiguous()


def contiguous_rows(x: Tensor) -> Tensor:
    """`x`, or a copy where its last dimension is not contiguous: all that the kernels ask for."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def empty_outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    """Room for out and lse."""
    # In q's own layout: [B, S, H, D] seen as [B, H, S, D] goes back to [B, S, H * D] without a copy.
    out = torch.empty_like(q)
    batch, heads, queries, head_size = q.shape
    if out.stride(-1) != 1 and head_size != 1:
        out = q.new_empty(q.shape)
    if q.dtype.itemsize == 2:
        return out, q.new_empty(batch, heads, queries, dtype=torch.float32)
    return out, q.new_empty(batch, heads, queries)


def _empty_bias(lse: Tensor, bias: Tensor | None, needed: bool) -> Tensor:
    return lse.new_empty(bias.shape if needed and bias is not None else (0,))


def seed_and_offset(seed: Tensor | None) -> tuple[int, int]:
    """As the kernels take them: mod 2^64 and mod 2^32."""
    if seed is None:
        return 0, 0
    value, offset = seed.tolist()
    return value % 2**64, offset % 2**32


def sizes_of(q: Tensor, k: Tensor, offsets: Tensor | None) -> tuple[int, int, int, int, int, int]:
    """B (of packed texts their number), H, Hkv, S, K, D."""
    batch, heads, queries, head_size = q.shape
    _, kv_heads, keys, _ = k.shape
    return (batch if offsets is None else offsets.shape[0] - 1, heads, kv_heads, queries, keys, head_size)


def strides_of(x: Tensor, offsets: Tensor | None) -> tuple[int, int, int]:
    """Over batch, heads and rows."""
    batch, head, row, _ = x.stride()
    return (batch if offsets is None else 0, head, row)


def bias_strides(bias: Tensor | None) -> tuple[int, int, int, int]:
    """0 where it is broadcast."""
    if bias is None:
        return (0, 0, 0, 0)
    batch, head, row, key = (0 if n == 1 else step for n, step in zip(bias.shape, bias.stride(), strict=True))
    return (batch, head, row, key)
