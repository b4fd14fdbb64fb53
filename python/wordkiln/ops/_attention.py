"""`ops.attention` and `ops.attention_varlen`: the checks, and which calls the kernel takes."""

from __future__ import annotations

import itertools
import math
from typing import Literal, overload

import torch
from torch import Tensor

from wordkiln import _kernels
from wordkiln.errors import ArgumentError
from wordkiln.ops import reference
from wordkiln.ops._attention_kernel import attention_kernel, for_kernel
from wordkiln.ops._checks import check_shape, check_tensor, kernel_lacks, warn_once

_CPU = torch.device("cpu")
LARGEST_HEAD = 256
LARGEST_FLOAT32_HEAD = 128  # on a GPU
# Of q, k, v, key_lengths, bias and slopes. Asked first: the checks that name what does not fit take 10 us, and a
# decoding step calls for every layer.
_SHAPES = _kernels.TensorShapes("b h s d, b g k d, b g k d, int64: b ?, ~b ~h ~s ~k ?, float: h ?")


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = ...,
    window: int | None = ...,
    key_lengths: Tensor | None = ...,
    bias: Tensor | None = ...,
    scale: float | None = ...,
    dropout: float = ...,
    *,
    slopes: Tensor | None = ...,
    soft_cap: float | None = ...,
    return_lse: Literal[False] = ...,
    seed: Tensor | None = ...,
) -> Tensor: ...
@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = ...,
    window: int | None = ...,
    key_lengths: Tensor | None = ...,
    bias: Tensor | None = ...,
    scale: float | None = ...,
    dropout: float = ...,
    *,
    return_lse: Literal[True],
    slopes: Tensor | None = ...,
    soft_cap: float | None = ...,
    seed: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...
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
    """Scaled dot-product attention with grouped heads.

    For each row of the batch and head, with x = scale * q_i . k_j and p_i = i + (K - S), the key at which query i
    stands (the last query stands at the last key):

        s_ij = cap(x) + bias_ij - slope * |p_i - j|        cap(x) = soft_cap * tanh(x / soft_cap), or x
        out_i = sum over seen j of drop(softmax over seen j of s_ij) * v_j
        lse_i = log of the sum over seen j of exp(s_ij)

    The kernel is tiled with an online softmax (Milakov and Gimelshein 2018, algorithm 3; Dao et al. 2022, algorithms
    1 and 4), never holds the [S, K] matrix and skips what no query sees. Few queries (S <= 4) read the keys where they
    lie, cut into chunks for the threads. It takes float32, float64 and bfloat16 (float32 inside) on the CPU, D up to
    256, any strides whose last dimension is contiguous; on a GPU, where built with CUDA, float32 (D up to 128),
    bfloat16 and float16 (docs/cuda.md). Other dtypes, devices and sizes run on `ops.reference.attention`, with one
    warning.

    Args:
        q: [B, H, S, D].
        k: [B, Hkv, K, D], H a multiple of Hkv: each key head serves H / Hkv query heads.
        v: [B, Hkv, K, D].
        causal: query i sees only keys j <= p_i. Default True.
        window: query i sees only keys with |p_i - j| < window. The cost is that of the keys seen. Default None: all.
        key_lengths: integers [B], 0 to K: row b has only its first key_lengths[b] keys (and K above is this number).
            Those on a GPU are clamped to 0 to K, not checked.
        bias: added to the scores, [1 or B, 1 or H, 1 or S, 1 or K] (or fewer dimensions, as torch broadcasts). It has
            a gradient.
        scale: default 1 / sqrt(D).
        dropout: probability to drop a weight, 0 <= dropout < 1; the others grow by 1 / (1 - dropout). Applied whenever
            it is not 0. Which weights is a function of `seed`, row, head, i and j alone (Philox4x32-10, Salmon et al.
            2011; `ops.reference.dropout_factors`), computed again in the backward pass. Default 0.
        slopes: [H], of ALiBi (Press et al. 2022). They are constants: no gradient. Default None: 0.
        soft_cap: see above (Gemma 2). Default None.
        return_lse: also return lse, which has a gradient too. Default False.
        seed: int64 [2], the seed (mod 2^64) and the offset (mod 2^32) of the dropout. Default: drawn from torch's
            generator in each call.

    Returns:
        out [B, H, S, D], 0 where a query sees no key; with `return_lse` the pair of out and lse [B, H, S], float32
        for 16-bit inputs and else of their dtype, -inf where a query sees no key.

    Raises:
        ArgumentError: shapes, dtypes, devices or ranges do not fit.
    """
    device = None if torch.compiler.is_compiling() else _SHAPES.device(q, k, v, key_lengths, bias, slopes)
    if device is None or q.shape[3] > LARGEST_HEAD:  # of what it takes the kernel itself looks at the lengths
        _check_grouped(q, k, v, key_lengths, bias)
        check_slopes(q, slopes)
        if key_lengths is not None:
            key_lengths = key_lengths.to(q.device, torch.int64)
        if bias is not None:
            bias = bias.view((1,) * (4 - bias.dim()) + bias.shape)
    key_lengths = None if key_lengths is None else key_lengths.contiguous()
    check_scores(q, k.shape[1], window, soft_cap, slopes)
    if dropout or seed is not None:
        _check_dropout(dropout, seed)
        seed = _seed(seed, dropout)
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else float(scale)
    lacks = None if device == "cpu" and q.shape[3] <= LARGEST_HEAD else attention_lacks(q)
    if lacks is None and bias is not None and q.is_cuda and bias.requires_grad and torch.is_grad_enabled():
        lacks = "the gradient of a bias on a GPU"
    if lacks is not None:
        warn_once("attention", lacks)
        both = reference.attention(
            q, k, v, causal, window, key_lengths, bias, scale, dropout,
            slopes=slopes, soft_cap=soft_cap, return_lse=True, seed=seed,
        )  # fmt: skip
    else:
        both = attention_kernel(
            q, k, v, key_lengths, bias, slopes if device == "cpu" else for_kernel(slopes, q), seed, None, None,
            causal, window or 0, scale, soft_cap or 0.0, dropout, device=device,
        )  # fmt: skip
    return both if return_lse else both[0]


@overload
def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    cu_seqlens_k: Tensor | None = ...,
    causal: bool = ...,
    window: int | None = ...,
    scale: float | None = ...,
    dropout: float = ...,
    *,
    slopes: Tensor | None = ...,
    soft_cap: float | None = ...,
    return_lse: Literal[False] = ...,
    seed: Tensor | None = ...,
) -> Tensor: ...
@overload
def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    cu_seqlens_k: Tensor | None = ...,
    causal: bool = ...,
    window: int | None = ...,
    scale: float | None = ...,
    dropout: float = ...,
    *,
    return_lse: Literal[True],
    slopes: Tensor | None = ...,
    soft_cap: float | None = ...,
    seed: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...
def attention_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    cu_seqlens_k: Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    *,
    slopes: Tensor | None = None,
    soft_cap: float | None = None,
    return_lse: bool = False,
    seed: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`attention` over texts of different lengths that lie one behind the other, without padding.

    Text b has the queries cu_seqlens[b] to cu_seqlens[b + 1], and sees only its own keys. Everything else is as in
    `attention`, within each text.

    Args:
        q: [queries of all texts, H, D].
        k: [keys of all texts, Hkv, D].
        v: [keys of all texts, Hkv, D].
        cu_seqlens: integers [B + 1] that rise from 0 to the number of queries.
        cu_seqlens_k: the same for keys. Default: cu_seqlens.
        causal: as in `attention`, like all that follow.
        window: see there.
        scale: see there.
        dropout: see there.
        slopes: see there.
        soft_cap: see there.
        return_lse: see there.
        seed: see there; i and j count within a text.

    Returns:
        out [queries of all texts, H, D]; with `return_lse` the pair of out and lse [H, queries of all texts].

    Raises:
        ArgumentError: shapes, dtypes, devices or ranges do not fit.
    """
    check_tensor("q", q, (None, None, None))
    check_tensor("k", k, (None, None, q.shape[2]), like=q)
    check_tensor("v", v, tuple(k.shape), like=q)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    _check_grouped(q, k, v, None, None)
    check_slopes(q, slopes)
    check_scores(q, k.shape[1], window, soft_cap, slopes)
    _check_dropout(dropout, seed)
    offsets_k = cu_seqlens if cu_seqlens_k is None else cu_seqlens_k
    _check_offsets("cu_seqlens", cu_seqlens, q.shape[2])
    _check_offsets("cu_seqlens" if cu_seqlens_k is None else "cu_seqlens_k", offsets_k, k.shape[2])
    if cu_seqlens.shape != offsets_k.shape:
        raise ArgumentError(f"cu_seqlens_k: shape {list(offsets_k.shape)} must be {list(cu_seqlens.shape)}")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    seed = _seed(seed, dropout)
    offsets = [x.to(q.device, torch.int64).contiguous() for x in (cu_seqlens, offsets_k)]
    lacks = attention_lacks(q)
    if lacks is not None:
        warn_once("attention_varlen", lacks)
        out, lse = reference.attention_varlen(
            q, k, v, offsets[0], offsets[1], causal, window, scale, dropout, slopes=slopes, soft_cap=soft_cap, seed=seed
        )
    else:
        out, lse = attention_kernel(
            q, k, v, None, None, for_kernel(slopes, q), seed, offsets[0], offsets[1],
            causal, window or 0, scale, soft_cap or 0.0, dropout,
        )  # fmt: skip
    out = out.squeeze(0).transpose(0, 1)
    return (out, lse.squeeze(0)) if return_lse else out


def attention_lacks(q: Tensor) -> str | None:
    """Why there is no kernel for the heads, dtype and device of `q`, or None."""
    if q.shape[-1] > LARGEST_HEAD:
        return f"heads larger than {LARGEST_HEAD}"
    if q.is_cuda and q.dtype == torch.float32 and q.shape[-1] > LARGEST_FLOAT32_HEAD:
        return f"float32 heads larger than {LARGEST_FLOAT32_HEAD} on a GPU"
    return kernel_lacks(q, bfloat16=True, cuda=True)


def _seed(seed: Tensor | None, dropout: float) -> Tensor | None:
    if not dropout or seed is not None:
        return seed if dropout else None
    return torch.randint(2**32, (2,), device=_CPU)  # int64; a user may have set another default device


def _check_grouped(q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None, bias: Tensor | None) -> None:
    check_tensor("q", q, (None, None, None, None))
    batch, heads, queries, head_size = q.shape
    check_tensor("k", k, (batch, None, None, head_size), like=q)
    kv_heads, keys = k.shape[1], k.shape[2]
    check_tensor("v", v, (batch, kv_heads, keys, head_size), like=q)
    if key_lengths is not None:
        check_lengths(key_lengths, batch, keys)
    if bias is not None:
        check_tensor("bias", bias, (None,) * bias.dim(), like=q)
        try:
            bias.expand(batch, heads, queries, keys)
        except RuntimeError:
            wanted = [batch, heads, queries, keys]
            raise ArgumentError(f"bias: shape {list(bias.shape)} must broadcast to {wanted}") from None


def check_slopes(q: Tensor, slopes: Tensor | None) -> None:
    """Refuse `slopes` that are not one for each head of `q` [B, H, S, D]."""
    if slopes is not None:
        check_tensor("slopes", slopes, (q.shape[1],))


def check_scores(q: Tensor, kv_heads: int, window: int | None, soft_cap: float | None, slopes: Tensor | None) -> None:
    """Refuse heads and changes of scores that do not fit `q` [B, H, S, D]."""
    _, heads, _, head_size = q.shape
    if head_size == 0:
        raise ArgumentError(f"q: shape {list(q.shape)} must have a head size of at least 1")
    if kv_heads == 0 or heads % kv_heads:
        raise ArgumentError(f"q: {heads} heads must be a multiple of the {kv_heads} key heads")
    if window is not None and window < 1:
        raise ArgumentError(f"window={window}: must be at least 1")
    if soft_cap is not None and not 0 < soft_cap < math.inf:
        raise ArgumentError(f"soft_cap={soft_cap}: must be more than 0 and finite")
    if slopes is not None and slopes.requires_grad:
        raise ArgumentError("slopes: they are constants, without a gradient; use bias to learn one")


def _check_dropout(dropout: float, seed: Tensor | None) -> None:
    if not 0 <= dropout < 1:
        raise ArgumentError(f"dropout={dropout}: must be at least 0 and less than 1")
    if seed is not None and (not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.shape != (2,)):
        raise ArgumentError("seed: must be an int64 tensor of shape [2]: the seed and the offset")


def check_integers(name: str, x: Tensor, shape: tuple[int | None, ...]) -> None:
    """Refuse `x` unless it is an integer tensor of `shape` (None: any size)."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{name}: must be a torch.Tensor, not {type(x).__name__}")
    if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
        raise ArgumentError(f"{name}: dtype {x.dtype} must be an integer one")
    check_shape(name, x, shape)


def check_lengths(key_lengths: Tensor, batch: int, keys: int) -> None:
    """Refuse `key_lengths` unless they are integers [B], 0 to `keys`."""
    check_integers("key_lengths", key_lengths, (batch,))
    if torch.compiler.is_compiling() or not batch or key_lengths.is_cuda:
        return  # the CPU's kernel checks the values as well; a GPU's clamps them, to look at them would be to wait
    for row, length in enumerate(key_lengths.tolist()):
        if not 0 <= length <= keys:
            raise ArgumentError(f"key_lengths[{row}]={length}: must be 0 to {keys}")


def _check_offsets(name: str, offsets: Tensor, total: int) -> None:
    check_integers(name, offsets, (None,))
    if not offsets.shape[0]:
        raise ArgumentError(f"{name}: shape [0] must be [B + 1]")
    if torch.compiler.is_compiling() or offsets.is_cuda:
        return  # as in check_lengths
    values = offsets.tolist()
    if values[0] != 0 or values[-1] != total or any(a > b for a, b in itertools.pairwise(values)):
        raise ArgumentError(f"{name}: must rise from 0 to {total}")
