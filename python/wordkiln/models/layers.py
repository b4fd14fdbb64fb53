"""The parts of a Llama-shaped decoder layer. Sizes: B rows, T new tokens, H heads, Hkv key heads, D head width."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from wordkiln import ops
from wordkiln.models.config import ModelConfig
from wordkiln.models.state import KeyValueCache


class RMSNorm(nn.Module):
    """`weight * x / sqrt(mean(x**2) + eps)` over the last dimension (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """[..., size] -> [..., size]; with a residual, `x + residual` normalised and as it is."""
        return ops.rms_norm(x, self.weight, self.eps, residual)


class MLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))` (Shazeer 2020, equation 6)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, hidden_size] -> the same shape."""
        output: Tensor = self.down_proj(ops.swiglu(self.gate_proj(x), self.up_proj(x)))
        return output


@dataclasses.dataclass(frozen=True)
class Slots:
    """Where T new tokens of each row stand, the same for every layer.

    Attributes:
        positions: int64 [B, T].
        rows: int64 [B, 1].
        lengths: tokens per row once the new ones are in.
        key_lengths: the same as int64 [B] on the device, or None where all rows are equally long.
        cos: [B, T, D / 2] of float32, or of float64 in a model of it; sin likewise.
        sin: see cos.
        used: tokens of the longest row before the new ones.
        capacity: size of a buffer that has to grow.
        in_place: whether a buffer with room may be written, rather than copied.
    """

    positions: Tensor
    rows: Tensor
    lengths: tuple[int, ...]
    key_lengths: Tensor | None
    cos: Tensor
    sin: Tensor
    used: int
    capacity: int
    in_place: bool

    @classmethod
    def plan(cls, config: ModelConfig, x: Tensor, past: KeyValueCache | None, in_place: bool) -> Slots:
        """The slots of `x` [B, T, hidden_size] behind what `past` holds."""
        batch, new = x.shape[:2]
        before = (0,) * batch if past is None else past.lengths
        used = max(before)
        needed = used + new
        capacity = needed
        if in_place and past is not None and config.max_position_embeddings is not None:
            # Doubling keeps the cost of copying linear in the number of tokens.
            capacity = max(needed, min(2 * past.layers[0][0].shape[1], config.max_position_embeddings))
        start = torch.tensor(before, device=x.device)[:, None]
        positions = start + torch.arange(new, device=x.device)
        lengths = tuple(length + new for length in before)
        key_lengths = None if len(set(lengths)) == 1 else torch.tensor(lengths, device=x.device)
        rows = torch.arange(batch, device=x.device)[:, None]
        cos, sin = rotary_angles(positions, config.head_dim, config.rope_theta, x.dtype)
        return cls(positions, rows, lengths, key_lengths, cos, sin, used, capacity, in_place)

    def append(self, buffer: Tensor | None, new: Tensor) -> Tensor:
        """`buffer` [B, capacity, Hkv, D], or a larger one in its place, with `new` [B, T, Hkv, D] in the slots."""
        if buffer is None:
            return new
        if not self.in_place or buffer.shape[1] < self.used + new.shape[1]:
            room = buffer.new_zeros(buffer.shape[0], self.capacity - self.used, *buffer.shape[2:])
            buffer = torch.cat([buffer[:, : self.used], room], 1)
        return buffer.index_put_((self.rows, self.positions), new)


class Attention(nn.Module):
    """Causal self-attention with rotary positions and grouped key heads (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, slots: Slots, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """[B, T, hidden_size] -> the same shape, and the keys and values with the new ones in."""
        q = ops.rotary(self._heads(self.q_proj(x)), slots.cos, slots.sin).transpose(1, 2)
        k = ops.rotary(self._heads(self.k_proj(x)), slots.cos, slots.sin)
        v = self._heads(self.v_proj(x))
        keys = slots.append(past and past[0], k)
        values = slots.append(past and past[1], v)
        end = slots.used + x.shape[1]
        output = ops.attention(
            q, keys[:, :end].transpose(1, 2), values[:, :end].transpose(1, 2), key_lengths=slots.key_lengths
        )
        attended: Tensor = self.o_proj(output.transpose(1, 2).flatten(2))
        return attended, (keys, values)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_dim)


def rotary_angles(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of `position * theta**(-2i / D)` (Su et al. 2021, RoFormer, section 3.2.2).

    Args:
        positions: int64 [B, T].
        head_dim: D.
        theta: the base.
        dtype: of the model. The angles are float32 at the least: a position of 2049 is not a bfloat16.

    Returns:
        cos and sin, each [B, T, D / 2].
    """
    wide = torch.promote_types(dtype, torch.float32)
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=wide) / head_dim
    angles = positions[:, :, None].to(wide) * theta**-exponent
    return angles.cos(), angles.sin()
