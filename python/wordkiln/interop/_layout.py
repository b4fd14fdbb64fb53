"""Which tensors a decoder has, by the runtime's names, and where in a file each of them lies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping

from wordkiln.errors import FormatError
from wordkiln.models.config import MAX_PARAMETERS
from wordkiln.runtime.architecture import Architecture

Shape = tuple[int, ...]
Shapes = dict[str, Shape]


@dataclasses.dataclass(frozen=True)
class Part:
    """Where one tensor of the runtime lies: in all of a file's tensor, or in some of its outputs.

    Attributes:
        tensor: its name in the file.
        shape: of the whole tensor in the file.
        outputs: first and end of those of its outputs that are meant, where it is fused with others.
        transposed: the file has [inputs, outputs].
        pairs_of_heads: heads, where the rows of a head stand as GGUF's Llama has them: element i of a head beside the
            element i + D / 2 that it turns with.
        scale: what the values are multiplied by.
    """

    tensor: str
    shape: Shape
    outputs: tuple[int, int] | None = None
    transposed: bool = False
    pairs_of_heads: int | None = None
    scale: float = 1.0


Plan = dict[str, Part]


def tensor_shapes(architecture: Architecture, *, biases: Collection[str] = (), tied: bool) -> Shapes:
    """Name -> shape of every tensor, as `TensorSource` lists them.

    Args:
        architecture: the shape of the decoder.
        biases: which of q, k, v, o, gate, up and down have one.
        tied: whether the embedding serves as the head.

    Raises:
        FormatError: these are more than `MAX_PARAMETERS` weights.
    """
    embedding = (architecture.vocab_size, architecture.hidden_size)
    shapes: Shapes = {"embed.weight": embedding}
    if architecture.rope_frequencies is None:
        shapes["positions.weight"] = (architecture.max_positions, architecture.hidden_size)
    shapes |= _norm("norm", architecture)
    if not tied:
        shapes["head.weight"] = embedding
    layer = _layer_shapes(architecture, biases)
    total = _count(shapes) + architecture.num_layers * _count(layer)
    if total > MAX_PARAMETERS:
        raise FormatError(f"{total} weights: must be at most {MAX_PARAMETERS}")
    for number in range(architecture.num_layers):
        shapes |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def check_plan(plan: Plan, found: Mapping[str, Shape], ignorable: Callable[[str], bool]) -> None:
    """Refuse a file whose tensors are not exactly those of `plan`.

    Args:
        plan: where each tensor should lie.
        found: name -> shape of the tensors in the file.
        ignorable: whether a tensor that no one asks for may be there.

    Raises:
        FormatError: one is missing, has another shape, or is there without being asked for.
    """
    wanted = {part.tensor: part.shape for part in plan.values()}
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted and not ignorable(name)]
    for what, names in (("misses", missing), ("has extra", extra)):
        if names:
            rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise FormatError(f"{what} {', '.join(label(name) for name in names[:3])}{rest}")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise FormatError(f"{label(name)}: shape {list(found[name])}, but the config asks for {list(shape)}")


def label(name: str) -> str:
    """A tensor's or key's name for a message: short, and nothing that a terminal would obey."""
    name = name if name.isprintable() else repr(name)
    return name if len(name) <= 80 else f"{name[:77]}..."


def _layer_shapes(architecture: Architecture, biases: Collection[str]) -> Shapes:
    hidden, inner, head_dim = architecture.hidden_size, architecture.intermediate_size, architecture.head_dim
    queries, keys = architecture.num_heads * head_dim, architecture.num_kv_heads * head_dim
    linear = {"q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)}
    linear |= {"gate": (inner, hidden)} if architecture.gated else {}
    linear |= {"up": (inner, hidden), "down": (hidden, inner)}
    shapes: Shapes = _norm("attention_norm", architecture)
    if architecture.qk_norm:
        shapes |= {"q_norm.weight": (head_dim,), "k_norm.weight": (head_dim,)}
    shapes |= _norm("mlp_norm", architecture)
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    return shapes | {f"{name}.bias": linear[name][:1] for name in linear if name in biases}


def _norm(name: str, architecture: Architecture) -> Shapes:
    parts = ("weight", "bias") if architecture.norm == "layer" else ("weight",)
    return {f"{name}.{part}": (architecture.hidden_size,) for part in parts}


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
