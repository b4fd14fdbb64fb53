# Arrays are addresses (0: none), sizes and strides are in elements; shapes stand in csrc/include/wordkiln/.
# Every function raises wordkiln.errors.ArgumentError for a dtype, size or address that cannot be.

from collections.abc import Sequence

from torch import Tensor

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
    window: int = 0,
    soft_cap: float = 0.0,
    bias: int = 0,
    bias_strides: tuple[int, int, int, int] = (0, 0, 0, 0),
    slopes: int = 0,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    query_offsets: int = 0,
    key_offsets: int = 0,
    page_table: int = 0,
    pages: int = 0,
    page_size: int = 0,
    page_count: int = 0,
) -> None: ...
def attention_forward_tensors(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    key_lengths: Tensor | None,
    bias: Tensor | None,
    slopes: Tensor | None,
    query_offsets: Tensor | None,
    key_offsets: Tensor | None,
    causal: bool,
    window: int,
    scale: float,
    soft_cap: float,
    dropout: float,
    seed: int,
    offset: int,
) -> None: ...
def attention_paged_tensors(
    q: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    out: Tensor,
    lse: Tensor,
    page_table: Tensor,
    key_lengths: Tensor,
    slopes: Tensor | None,
    causal: bool,
    window: int,
    scale: float,
    soft_cap: float,
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
    window: int = 0,
    soft_cap: float = 0.0,
    bias: int = 0,
    bias_strides: tuple[int, int, int, int] = (0, 0, 0, 0),
    slopes: int = 0,
    dropout: float = 0.0,
    seed: int = 0,
    offset: int = 0,
    query_offsets: int = 0,
    key_offsets: int = 0,
    grad_lse: int = 0,
    grad_bias: int = 0,
    grad_bias_strides: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> None: ...
def has_linear_cross_entropy(dtype: str) -> bool: ...
def linear_cross_entropy(
    dtype: str,
    hidden: int,
    weight: int,
    bias: int,
    targets: int,
    grad_hidden: int,
    grad_weight: int,
    grad_bias: int,
    sizes: tuple[int, int, int],
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    mean: bool,
) -> float: ...
def has_recurrent(dtype: str) -> bool: ...
def recurrent_forward(
    dtype: str,
    kind: str,
    gates: int,
    weight_hh: int,
    bias_ih: int,
    bias_hh: int,
    h0: int,
    c0: int,
    lengths: int,
    out: int,
    cells: int,
    hidden_new: int,
    sizes: tuple[int, int, int],
    keep: bool,
    h: int = 0,
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
    grad_bias: int,
    sizes: tuple[int, int, int],
) -> None: ...

# arrays: addresses in the order of the structs of include/wordkiln/recurrent_cell.h, 0 for null.
def cell_forward(
    dtype: str,
    kind: str,
    arrays: Sequence[int],
    sizes: tuple[int, int, int],
    step: int,
    zoneout: tuple[float, float, bool, int, int],
    eps: float,
    keep: bool,
) -> None: ...
def cell_backward(
    dtype: str,
    kind: str,
    arrays: Sequence[int],
    sizes: tuple[int, int, int],
    step: int,
    zoneout: tuple[float, float, bool, int, int],
) -> None: ...
def rotary(
    dtype: str, x: int, cos: int, sin: int, out: int, sizes: tuple[int, int, int], x_row: int, back: bool
) -> None: ...

class RecurrentStep:
    """Time steps of stacked recurrent layers for a few rows; the weights are packed once and kept.

    kind: "lstm", "gru", "tanh" or "relu". storage of the weights: "float32", "bfloat16" or "int8" (a scale for each
    gate row); everything else is float32. h and c are [layers, B, H] and overwritten; a step's output is the last
    layer's h. `read` takes x [T, B, I] and writes the outputs of all steps, [T, B, H], to out.
    """

    def __init__(self, kind: str, storage: str) -> None: ...
    def add_layer(
        self, weight_ih: int, weight_hh: int, bias_ih: int, bias_hh: int, inputs: int, hidden: int
    ) -> None: ...
    def step(self, x: int, h: int, c: int, batch: int) -> None: ...
    def read(self, x: int, h: int, c: int, out: int, steps: int, batch: int) -> None: ...
    @property
    def layers(self) -> int: ...
    @property
    def inputs(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def bytes(self) -> int: ...

def elementwise(dtype: str, function: str, x: int, out: int, count: int) -> None: ...
def gelu_forward(dtype: str, x: int, bias: int, out: int, sizes: tuple[int, int], tanh: bool) -> None: ...
def gelu_backward(
    dtype: str,
    x: int,
    bias: int,
    grad_out: int,
    grad_x: int,
    grad_bias: int,
    sizes: tuple[int, int],
    tanh: bool,
) -> None: ...
def swiglu_forward(dtype: str, gate: int, up: int, out: int, count: int) -> None: ...
def swiglu_backward(
    dtype: str, gate: int, up: int, grad_out: int, grad_gate: int, grad_up: int, count: int
) -> None: ...
def rms_norm_forward(
    dtype: str,
    x: int,
    residual: int,
    weight: int,
    total: int,
    out: int,
    scale: int,
    sizes: tuple[int, int],
    eps: float,
) -> None: ...
def rms_norm_backward(
    dtype: str,
    total: int,
    weight: int,
    scale: int,
    grad_out: int,
    grad_total: int,
    grad_x: int,
    grad_weight: int,
    sizes: tuple[int, int],
) -> None: ...

DECODER_PAGE_KEYS: int

class Decoder:
    """A Transformer decoder; layers are added one by one, addresses by name (csrc/include/wordkiln/decoder.h).

    norm: "rms" or "layer". activation: "silu", "gelu" or "gelu_tanh". storage: "float32", "bfloat16" or "int8".
    vectors are float32; matrices have an encoding: "float32", "float16", "bfloat16", "q4_0", "q4_1" or "q8_0".
    """

    def __init__(
        self,
        vocab: int,
        hidden: int,
        heads: int,
        kv_heads: int,
        head_size: int,
        intermediate: int,
        norm: str,
        norm_eps: float,
        activation: str,
        gated: bool,
        qk_norm: bool,
        storage: str,
    ) -> None: ...
    def add_layer(self, vectors: dict[str, int], matrices: dict[str, tuple[int, str]], window: int) -> None: ...
    def set_ends(
        self,
        vectors: dict[str, int],
        matrices: dict[str, tuple[int, str]],
        max_positions: int,
        unused: int = 0,
        unused_count: int = 0,
    ) -> None: ...
    def run(
        self,
        ids: int,
        offsets: int,
        starts: int,
        rows: int,
        pages: int,
        pages_per_row: int,
        prompt: bool,
        wanted: int,
        count: int,
        logits: int,
        targets: int = 0,
        log_probabilities: int = 0,
    ) -> None: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

def plain_device(inputs: tuple[object, ...]) -> str | None: ...
def any_requires_grad(inputs: tuple[object, ...]) -> bool: ...

class TensorShapes:
    def __init__(self, pattern: str) -> None: ...
    def device(self, *tensors: Tensor | None) -> str | None: ...

class PackedLinear:
    def __init__(self, weight: int, bias: int, outputs: int, inputs: int, storage: str) -> None: ...
    def __call__(self, x: int, out: int, rows: int) -> None: ...
    def rows(self, ids: int, out: int, count: int) -> None: ...
    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
