# Arrays are addresses (0: none), sizes and strides are in elements; shapes stand in csrc/include/wordkiln/.
# Every function raises wordkiln.errors.ArgumentError for a dtype, size or address that cannot be.

def available_isas() -> list[str]: ...
def current_isa() -> str: ...
def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def attention_forward(
    dtype: str,
    q: int,
    k: int,
    v: int,
    out: int,
    lse: int,
    key_lengths: int,
    sizes: tuple[int, int, int, int, int, int],
    q_strides: tuple[int, int, int],
    k_strides: tuple[int, int, int],
    v_strides: tuple[int, int, int],
    out_strides: tuple[int, int, int],
    causal: bool,
    scale: float,
) -> None: ...
def attention_backward(
    dtype: str,
    q: int,
    k: int,
    v: int,
    out: int,
    lse: int,
    grad_out: int,
    grad_q: int,
    grad_k: int,
    grad_v: int,
    key_lengths: int,
    sizes: tuple[int, int, int, int, int, int],
    q_strides: tuple[int, int, int],
    k_strides: tuple[int, int, int],
    v_strides: tuple[int, int, int],
    out_strides: tuple[int, int, int],
    grad_out_strides: tuple[int, int, int],
    causal: bool,
    scale: float,
) -> None: ...
def recurrent_forward(
    dtype: str,
    kind: str,
    gates: int,
    weight_hh: int,
    bias_new: int,
    h0: int,
    c0: int,
    lengths: int,
    out: int,
    cells: int,
    hidden_new: int,
    sizes: tuple[int, int, int],
    keep: bool,
) -> None: ...
def recurrent_backward(
    dtype: str,
    kind: str,
    activations: int,
    grad_gates: int,
    hidden_new: int,
    grad_hidden_new: int,
    weight_hh: int,
    h0: int,
    c0: int,
    lengths: int,
    out: int,
    cells: int,
    grad_out: int,
    grad_h: int,
    grad_c: int,
    sizes: tuple[int, int, int],
) -> None: ...

class RecurrentStep:
    """One time step of stacked recurrent layers for a few rows; the weights are packed once and kept.

    kind: "lstm", "gru", "tanh" or "relu". storage of the weights: "float32", "bfloat16" or "int8" (a scale for each
    gate row); everything else is float32. h and c are [layers, B, H] and overwritten; the output is the last layer's h.
    """

    def __init__(self, kind: str, storage: str) -> None: ...
    def add_layer(
        self, weight_ih: int, weight_hh: int, bias_ih: int, bias_hh: int, inputs: int, hidden: int
    ) -> None: ...
    def step(self, x: int, h: int, c: int, batch: int) -> None: ...
    @property
    def layers(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def bytes(self) -> int: ...

def elementwise(dtype: str, function: str, x: int, out: int, count: int) -> None: ...
