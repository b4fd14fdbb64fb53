"""The attention op's kernels on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from wordkiln.errors import ArgumentError
from wordkiln.ops import _cuda
from wordkiln.ops._attention_kernel import (
    address,
    attention_backward_kernel,
    attention_kernel,
    bias_strides,
    contiguous_rows,
    seed_and_offset,
    sizes_of,
    strides_of,
)
from wordkiln.ops._attention_paged import attention_paged_kernel


def forward(
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
    """As `attention_kernel`, by the GPU's kernels."""
    head_size = q.shape[-1]
    q, k, v = (_cuda.aligned(x) for x in (q, k, v))
    bias = None if bias is None else contiguous_rows(bias)
    out, lse = _outputs(q)
    with _cuda.guard(q):
        _cuda.kernels().attention_forward(
            _cuda.dtype_name(q),
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            out.data_ptr(),
            lse.data_ptr(),
            address(key_lengths),
            sizes_of(q, k, query_offsets),
            strides_of(q, query_offsets),
            strides_of(k, query_offsets),
            strides_of(v, query_offsets),
            strides_of(out, query_offsets),
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
            allocate=_cuda.Workspace(q),
            stream=_cuda.stream(q),
        )
    return _narrowed(out, head_size), lse


def backward(
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
    """As `attention_backward_kernel`, by the GPU's kernels; without a gradient of the bias."""
    if needs_bias:
        raise ArgumentError("bias: there is no kernel for its gradient on a GPU")  # ops.attention asks first
    head_size = q.shape[-1]
    q, k, v, out, grad_out = (_cuda.aligned(x) for x in (q, k, v, out, grad_out))
    bias = None if bias is None else contiguous_rows(bias)
    grad_lse = None if grad_lse is None else grad_lse.contiguous()
    grads = tuple(x.new_empty(x.shape) for x in (q, k, v))
    with _cuda.guard(q):
        _cuda.kernels().attention_backward(
            _cuda.dtype_name(q),
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            out.data_ptr(),
            lse.data_ptr(),
            grad_out.data_ptr(),
            *(x.data_ptr() for x in grads),
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
            allocate=_cuda.Workspace(q),
            stream=_cuda.stream(q),
        )
    grad_q, grad_k, grad_v = (_narrowed(x, head_size) for x in grads)
    return grad_q, grad_k, grad_v, lse.new_empty(0)


def paged(
    q: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    page_table: Tensor,
    key_lengths: Tensor,
    slopes: Tensor | None,
    causal: bool,
    window: int,
    scale: float,
    soft_cap: float,
) -> tuple[Tensor, Tensor]:
    """As `attention_paged_kernel`, by the GPU's kernels."""
    head_size = q.shape[-1]
    q, key_pages, value_pages = (_cuda.aligned(x) for x in (q, key_pages, value_pages))
    out, lse = _outputs(q)
    batch, heads, queries, width = q.shape
    page_count, page_size, kv_heads, _ = key_pages.shape
    pages = page_table.shape[1]
    with _cuda.guard(q):
        _cuda.kernels().attention_forward(
            _cuda.dtype_name(q),
            q.data_ptr(),
            key_pages.data_ptr(),
            value_pages.data_ptr(),
            out.data_ptr(),
            lse.data_ptr(),
            key_lengths.data_ptr(),
            (batch, heads, kv_heads, queries, pages * page_size, width),
            strides_of(q, None),
            _page_strides(key_pages),
            _page_strides(value_pages),
            strides_of(out, None),
            causal,
            scale,
            window,
            soft_cap,
            slopes=address(slopes),
            page_table=page_table.data_ptr(),
            pages=pages,
            page_size=page_size,
            page_count=page_count,
            allocate=_cuda.Workspace(q),
            stream=_cuda.stream(q),
        )
    return _narrowed(out, head_size), lse


def _outputs(q: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(q)
    if out.stride(-1) != 1:
        out = q.new_empty(q.shape)
    batch, heads, queries, _ = q.shape  # one by one: a tuple of them takes twice as long
    return out, q.new_empty(batch, heads, queries, dtype=torch.float32)


def _narrowed(x: Tensor, head_size: int) -> Tensor:
    return x if head_size == x.shape[-1] else x[..., :head_size].contiguous()


attention_kernel.register_kernel("cuda", forward)
attention_backward_kernel.register_kernel("cuda", backward)
attention_paged_kernel.register_kernel("cuda", paged)


def _page_strides(pages: Tensor) -> tuple[int, int, int]:
    """Over pages, heads and the keys of a page."""
    page, key, head, _ = pages.stride()
    return (page, head, key)
