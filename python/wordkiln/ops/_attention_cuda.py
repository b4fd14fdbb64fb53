"""The attention op's kernels on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from wordkiln.ops import _cuda
from wordkiln.ops._attention_kernel import (
    address,
    attention_kernel,
    bias_strides,
    contiguous_rows,
    seed_and_offset,
    sizes_of,
    strides_of,
)


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
    out = torch.empty_like(q)
    if out.stride(-1) != 1:
        out = q.new_empty(q.shape)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    scratch = _cuda.workspace(0, q)
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
            workspace=scratch.data_ptr(),
            stream=_cuda.stream(q),
        )
    return (out if head_size == out.shape[-1] else out[..., :head_size].contiguous()), lse


attention_kernel.register_kernel("cuda", forward)
