"""torch's recurrent modules with Wordkiln's ops inside: same arguments, same state dict, same results.

They derive from torch.nn.RNNBase, which keeps the parameters, their names and their initialisation; only the forward
pass is ours. (Not from torch.nn.LSTM and its like: torch.compile breaks its graph at every instance of those.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from wordkiln import ops
from wordkiln.errors import ArgumentError
from wordkiln.ops._layer_norms import check_zoneout

# One layer in one direction: (x [T, B, I], its weights, its norms, state parts [B, H]) -> (outputs [T, B, H], the last
# state parts).
_Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
_State = tuple[Tensor, ...] | None  # None: zeros
_Norms = ops.LayerNorms | None
_Layer = Callable[[Tensor, _Weights, _Norms, _State], tuple[Tensor, tuple[Tensor, ...]]]


class LSTM(torch.nn.RNNBase):
    """`torch.nn.LSTM` on `ops.lstm`.

    Args:
        *args: as torch.nn.LSTM: input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
            bidirectional=False, proj_size=0 (only 0), device=None, dtype=None.
        layer_norm: layer norms in the cell (Ba, Kiros and Hinton 2016). Each layer then has the parameters gain_ih_l0
            and gain_hh_l0 [4H], gain_c_l0 and bias_c_l0 [H] as well, named like its weights. Default False.
        zoneout: probabilities of h and c, as `ops.lstm`; in evaluation the expectation. Default none.
        **kwargs: torch's by name.

    Raises:
        ArgumentError: proj_size is not 0, or zoneout is no pair of probabilities.
    """

    def __init__(
        self, *args: Any, layer_norm: bool = False, zoneout: tuple[float, float] = (0.0, 0.0), **kwargs: Any
    ) -> None:
        super().__init__("LSTM", *args, **kwargs)
        _check_projection(self)
        self.layer_norm, self.zoneout = layer_norm, check_zoneout(zoneout, "hc", None)
        if layer_norm:
            _add_norms(self, gates=4)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run every layer over the whole sequence.

        Args:
            input: [T, B, I]; [B, T, I] with batch_first; [T, I] without a batch. No PackedSequence.
            hx: the first (h, c), each [num_layers * directions, B, H]; without B for an unbatched input. Default zeros.

        Returns:
            The outputs of the last layer ([T, B, directions * H], laid out as the input), and the last (h, c).

        Raises:
            ArgumentError: shapes, dtypes or devices do not fit; a PackedSequence.
        """
        if hx is not None and (not isinstance(hx, tuple | list) or len(hx) != 2):
            raise ArgumentError("hx: must be the pair (h, c)")

        def layer(x: Tensor, weights: _Weights, norms: _Norms, state: _State) -> tuple[Tensor, tuple[Tensor, ...]]:
            first = None if state is None else (state[0], state[1])
            options: dict[str, Any] = {"norms": norms, "zoneout": self.zoneout, "training": self.training}
            return ops.lstm(x, *weights, state=first, **options)

        output, (h, c) = _run(self, layer, input, None if hx is None else tuple(hx))
        return output, (h, c)


class GRU(torch.nn.RNNBase):
    """`torch.nn.GRU` on `ops.gru`; arguments as torch.nn.GRU: those of `LSTM`.

    Args:
        *args: see `LSTM`.
        layer_norm: see `LSTM`; gain_ih_l0 and gain_hh_l0 [3H] alone.
        zoneout: probability of h, as `ops.gru`. Default 0.
        **kwargs: torch's by name.

    Raises:
        ArgumentError: proj_size is not 0, or zoneout is no probability.
    """

    def __init__(self, *args: Any, layer_norm: bool = False, zoneout: float = 0.0, **kwargs: Any) -> None:
        super().__init__("GRU", *args, **kwargs)
        _check_projection(self)
        self.layer_norm, (self.zoneout,) = layer_norm, check_zoneout((zoneout,), "h", None)
        if layer_norm:
            _add_norms(self, gates=3)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run every layer over the whole sequence; shapes and errors as `LSTM.forward`, with h alone as the state."""

        def layer(x: Tensor, weights: _Weights, norms: _Norms, state: _State) -> tuple[Tensor, tuple[Tensor, ...]]:
            first = None if state is None else state[0]
            options: dict[str, Any] = {"norms": norms, "zoneout": self.zoneout, "training": self.training}
            output, h = ops.gru(x, *weights, state=first, **options)
            return output, (h,)

        output, (h,) = _run(self, layer, input, None if hx is None else (hx,))
        return output, h


class RNN(torch.nn.RNNBase):
    """`torch.nn.RNN` on `ops.rnn`.

    Args:
        input_size: as torch.nn.RNN, like all that follow.
        hidden_size: see there.
        num_layers: see there.
        nonlinearity: "tanh" or "relu".
        *args: see `LSTM`, from bias on.
        **kwargs: the same by name.

    Raises:
        ArgumentError: nonlinearity is another word, or proj_size is not 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ArgumentError(f"nonlinearity={nonlinearity!r}: must be 'tanh' or 'relu'")
        super().__init__(f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, *args, **kwargs)
        _check_projection(self)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run every layer over the whole sequence; shapes and errors as `LSTM.forward`, with h alone as the state."""

        def layer(x: Tensor, weights: _Weights, _: _Norms, state: _State) -> tuple[Tensor, tuple[Tensor, ...]]:
            output, h = ops.rnn(x, *weights, state=None if state is None else state[0], nonlinearity=self.nonlinearity)
            return output, (h,)

        output, (h,) = _run(self, layer, input, None if hx is None else (hx,))
        return output, h


def _check_projection(module: torch.nn.RNNBase) -> None:
    if module.proj_size:
        raise ArgumentError(f"proj_size={module.proj_size}: must be 0; projections are not supported")


def _add_norms(module: torch.nn.RNNBase, gates: int) -> None:
    """Gains of 1 and shifts of 0 behind torch's own parameters, which start with the same numbers."""
    hidden = module.hidden_size
    like: Any = module.weight_hh_l0
    for suffix in _suffixes(module):
        rows = {"gain_ih": gates * hidden, "gain_hh": gates * hidden} | ({"gain_c": hidden} if gates == 4 else {})
        for name, size in rows.items():
            module.register_parameter(name + suffix, torch.nn.Parameter(like.new_ones(size)))
        if gates == 4:
            module.register_parameter("bias_c" + suffix, torch.nn.Parameter(like.new_zeros(hidden)))


def _suffixes(module: torch.nn.RNNBase) -> list[str]:
    directions = ["", "_reverse"] if module.bidirectional else [""]
    return [f"_l{depth}{direction}" for depth in range(module.num_layers) for direction in directions]


def _run(module: torch.nn.RNNBase, layer: _Layer, x: Tensor, state: _State) -> tuple[Tensor, tuple[Tensor, ...]]:
    """All layers and directions; `state` and the last states are `parts` tensors [num_layers * directions, B, H]."""
    if isinstance(x, PackedSequence):
        raise ArgumentError("input: PackedSequence is not supported; pass the padded tensor")
    if not isinstance(x, Tensor) or x.dim() not in (2, 3) or x.shape[-1] != module.input_size:
        shape = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ArgumentError(f"input: shape {shape} must be [T, B, {module.input_size}] or [T, {module.input_size}]")
    batched = x.dim() == 3
    batch_dim = 0 if module.batch_first else 1
    if not batched:
        x = x.unsqueeze(batch_dim)
        state = None if state is None else tuple(part.unsqueeze(1) for part in state)
    if module.batch_first:
        x = x.transpose(0, 1)
    _check_state(module, x, state)
    output, last = _run_layers(module, layer, x, state)
    if module.batch_first:
        output = output.transpose(0, 1)
    if not batched:
        output = output.squeeze(batch_dim)
        last = tuple(part.squeeze(1) for part in last)
    return output, last


def _check_state(module: torch.nn.RNNBase, x: Tensor, state: _State) -> None:
    shape = (module.num_layers * (2 if module.bidirectional else 1), x.shape[1], module.hidden_size)
    for name, part in zip("hc", state or (), strict=False):
        if not isinstance(part, Tensor) or part.shape != shape:
            got = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise ArgumentError(f"hx ({name}): shape {got} must be {list(shape)}")


def _run_layers(module: torch.nn.RNNBase, layer: _Layer, x: Tensor, state: _State) -> tuple[Tensor, tuple[Tensor, ...]]:
    directions = ["", "_reverse"] if module.bidirectional else [""]
    last: list[tuple[Tensor, ...]] = []
    for depth in range(module.num_layers):
        outputs = []
        for suffix in directions:
            first = None if state is None else tuple(part[len(last)] for part in state)
            inputs = x.flip(0) if suffix else x
            own = f"_l{depth}{suffix}"
            output, final = layer(inputs, _weights(module, own), _norms(module, own), first)
            outputs.append(output.flip(0) if suffix else output)
            last.append(final)
        x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        if depth + 1 < module.num_layers:
            x = F.dropout(x, module.dropout, module.training)
    return x, tuple(torch.stack(part) for part in zip(*last, strict=True))


def _weights(module: torch.nn.RNNBase, suffix: str) -> _Weights:
    return (
        getattr(module, "weight_ih" + suffix),
        getattr(module, "weight_hh" + suffix),
        getattr(module, "bias_ih" + suffix, None),
        getattr(module, "bias_hh" + suffix, None),
    )


def _norms(module: torch.nn.RNNBase, suffix: str) -> _Norms:
    if not getattr(module, "layer_norm", False):
        return None
    names = ("gain_ih", "gain_hh", "gain_c", "bias_c")
    parts: list[Any] = [getattr(module, name + suffix, None) for name in names]  # a GRU has no norm of a cell
    return ops.LayerNorms(*parts)
