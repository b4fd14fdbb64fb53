"""`ops.attention_paged`: a few queries over a key and value cache that lies in pages."""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._attention import (
    LARGEST_HEAD,
    attention_lacks,
    check_integers,
    check_lengths,
    check_scores,
    check_slopes,
)
from wordkiln.ops._attention_kernel import contiguous_rows, empty_outputs, for_kernel
from wordkiln.ops._checks import check_tensor, warn_once
from wordkiln.ops._op import op

# Of q, the pages, the table, the lengths and the slopes; asked before the slower checks.
_SHAPES = _kernels.TensorShapes("b h s d, n p g d, n p g d, int64: b m, int64: b, float: h ?")


@overload
def attention_paged(
    q: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    page_table: Tensor,
    key_lengths: Tensor,
    *,
    causal: bool = ...,
    window: int | None = ...,
    scale: float | None = ...,
    slopes: Tensor | None = ...,
    soft_cap: float | None = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...
@overload
def attention_paged(
    q: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    page_table: Tensor,
    key_lengths: Tensor,
    *,
    causal: bool = ...,
    window: int | None = ...,
    scale: float | None = ...,
    slopes: Tensor | None = ...,
    soft_cap: float | None = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
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
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` over a cache in pages (Kwon et al. 2023, PagedAttention), for decoding: there is no gradient.

    Key j of row b lies in page page_table[b, j // page_size], at j % page_size. The pages have the layout that vLLM
    and flash-attn's `flash_attn_with_kvcache` use; `page_table` is their block table, `key_lengths` their cache_seqlens
    with the new keys already in. Keys and values are read once where they lie; a pool kept as
    [pages, Hkv, page_size, D] and passed as its `transpose(1, 2)` is read faster (docs/attention.md). The kernel takes
    what that of `attention` takes; other dtypes, devices and sizes run on
    `ops.reference.attention_paged`, with one warning.

    Args:
        q: [B, H, S, D], the last S positions of each row.
        key_pages: [pages, page_size, Hkv, D], H a multiple of Hkv.
        value_pages: the same shape.
        page_table: integers [B, pages a row]. Only the entries that a row's length needs are read; the others may be
            anything. Rows may share pages.
        key_lengths: integers [B], 0 to pages a row * page_size: how many keys each row has.
        causal: as in `attention`, like all that follow. Default True.
        window: see there.
        scale: see there.
        slopes: see there.
        soft_cap: see there.
        return_lse: see there.

    Returns:
        out [B, H, S, D]; with `return_lse` the pair of out and lse [B, H, S]. Both as in `attention`.

    Raises:
        ArgumentError: shapes, dtypes, devices or ranges do not fit; an entry of the table that is needed is no page
            (on a GPU the row becomes NaN instead); a gradient is wanted.
    """
    tensors = (q, key_pages, value_pages, page_table, key_lengths)
    device = None if torch.compiler.is_compiling() else _SHAPES.device(*tensors, slopes)
    if device is None or q.shape[3] > LARGEST_HEAD:  # of what it takes the kernel itself looks at the lengths
        _check(*tensors)
        check_slopes(q, slopes)
        page_table, key_lengths = (x.to(q.device, torch.int64) for x in (page_table, key_lengths))
    _check_pages(q, key_pages, value_pages)
    check_scores(q, key_pages.shape[2], window, soft_cap, slopes)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    page_table, key_lengths = page_table.contiguous(), key_lengths.contiguous()
    lacks = None if device == "cpu" and q.shape[3] <= LARGEST_HEAD else attention_lacks(q)
    if lacks is not None:
        warn_once("attention_paged", lacks)
        both = reference.attention_paged(
            q, key_pages, value_pages, page_table, key_lengths,
            causal=causal, window=window, scale=scale, slopes=slopes, soft_cap=soft_cap,
        )  # fmt: skip
        return both if return_lse else both[0]
    out, lse = attention_paged_kernel(
        q, key_pages, value_pages, page_table, key_lengths, slopes if device == "cpu" else for_kernel(slopes, q),
        causal, window or 0, scale, soft_cap or 0.0, device=device,
    )  # fmt: skip
    return (out, lse) if return_lse else out


@op(
    "wordkiln::attention_paged",
    schema="(Tensor q, Tensor key_pages, Tensor value_pages, Tensor page_table, Tensor key_lengths, Tensor? slopes,"
    " bool causal, int window, float scale, float soft_cap) -> (Tensor, Tensor)",
)
def attention_paged_kernel(
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
    """Out and lse of checked inputs; 0 stands for no window and no cap."""
    if not q.stride(-1) == key_pages.stride(-1) == value_pages.stride(-1) == 1:
        q, key_pages, value_pages = contiguous_rows(q), contiguous_rows(key_pages), contiguous_rows(value_pages)
    out, lse = empty_outputs(q)
    _kernels.attention_paged_tensors(
        q, key_pages, value_pages, out, lse, page_table, key_lengths, slopes, causal, window, scale, soft_cap
    )
    return out, lse


@attention_paged_kernel.register_fake
def _attention_paged_fake(q: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return empty_outputs(contiguous_rows(q))


def _check(q: Tensor, key_pages: Tensor, value_pages: Tensor, page_table: Tensor, key_lengths: Tensor) -> None:
    check_tensor("q", q, (None, None, None, None))
    check_tensor("key_pages", key_pages, (None, None, None, q.shape[3]), like=q)
    check_tensor("value_pages", value_pages, tuple(key_pages.shape), like=q)
    check_integers("page_table", page_table, (q.shape[0], None))
    check_lengths(key_lengths, q.shape[0], page_table.shape[1] * key_pages.shape[1])


def _check_pages(q: Tensor, key_pages: Tensor, value_pages: Tensor) -> None:
    if key_pages.shape[1] == 0:
        raise ArgumentError(f"key_pages: shape {list(key_pages.shape)} must have a page size of at least 1")
    for name, x in (("q", q), ("key_pages", key_pages), ("value_pages", value_pages)):
        if x.requires_grad and torch.is_grad_enabled():
            raise ArgumentError(f"{name}: requires a gradient, which there is none of over pages; use torch.no_grad()")
