import torch

def version() -> str: ...
def cpu_features() -> dict[str, bool]: ...
def isas() -> tuple[str, ...]: ...
def isa(name: str = "") -> str: ...
def use_isa(name: str) -> None: ...
def active_isa() -> str: ...
def max_threads() -> int: ...
def has_openmp() -> bool: ...
def unpack4(packed: bytes, isa: str = "") -> bytes: ...

# Arrays are (address, bytes) pairs; `nybble.ops.native.buffers` makes them.
def decode_bytes(
    packed: int, bytes: int, start: int, count: int, table: int, out: int, out_bytes: int
) -> None: ...
def decode_words(
    packed: int, bytes: int, start: int, count: int, table: int, out: int, out_bytes: int
) -> None: ...

# Gemm (csrc/gemm): _Span is (address, bytes), (0, 0) for nothing; _Operand is packed, table, bits,
# low, high, transposed.
_Span = tuple[int, int]
_Operand = tuple[_Span, _Span, int, int, int, bool]

def gemm(
    m: int,
    n: int,
    k: int,
    a: _Operand,
    b: _Operand,
    scale_a: _Span,
    scale_b: _Span,
    bias: _Span,
    out: _Span,
    threads: int,
    limit: int,
    /,
) -> None: ...
def gemm_batch(
    count: int,
    m: int,
    n: int,
    k: int,
    a: _Operand,
    b: _Operand,
    scale_a: _Span,
    scale_b: _Span,
    out: _Span,
    threads: int,
    limit: int,
    /,
) -> None: ...
def block_gemm(
    m: int,
    n: int,
    k: int,
    a: _Operand,
    b: _Operand,
    block: int,
    scale_a: _Span,
    strides_a: tuple[int, int],
    scale_b: _Span,
    strides_b: tuple[int, int],
    out: _Span,
    threads: int,
    limit: int,
    /,
) -> None: ...

# winograd: see nybble.ops.native.winograd
def winograd_correlation_plan(
    low_a: int, high_a: int, low_w: int, high_w: int, contraction: int
) -> int: ...
def winograd_grad_weight_tiles(low_g: int, high_g: int, low_x: int, high_x: int) -> int: ...
def winograd_correlate(*args: int) -> None: ...
def winograd_grad_weight(*args: int) -> None: ...

# Convolution (csrc/conv): sizes are images, height, width, channels, out channels, kernel, stride,
# padding, dilation (two each), groups; _Convolved is codes, bytes, bits, table, bytes, low, high.
_Convolved = tuple[int, int, int, int, int, int, int]

def conv_output(
    sizes: list[int],
    x: _Convolved,
    w: _Convolved,
    row: _Span,
    column: _Span,
    bias: _Span,
    out: _Span,
    threads: int,
    limit: int = ...,
) -> None: ...
def conv_grad_input(
    sizes: list[int],
    g: _Convolved,
    w: _Convolved,
    row: _Span,
    column: _Span,
    out: _Span,
    threads: int,
    limit: int = ...,
) -> None: ...
def conv_grad_weight(
    sizes: list[int],
    g: _Convolved,
    x: _Convolved,
    row: _Span,
    column: _Span,
    out: _Span,
    threads: int,
    limit: int = ...,
) -> None: ...

# csrc/quantize. x, inv (the factors), codes, mask, ...: (address, bytes); the rules are the structs
# of quantize/pack.hpp as bytes. The pack functions return (max|x|, 0 or NaN).
def pack_integer(
    x: int,
    x_bytes: int,
    bf16: bool,
    n: int,
    inv: int,
    inv_bytes: int,
    run: int,
    codes: int,
    codes_bytes: int,
    mask: int,
    mask_bytes: int,
    inside_low: float,
    inside_high: float,
    low: int,
    high: int,
    bits: int,
    affine: bool,
    zero: float,
    threads: int,
) -> tuple[float, float]: ...
def pack_log(
    x: int,
    x_bytes: int,
    bf16: bool,
    n: int,
    inv: int,
    inv_bytes: int,
    run: int,
    codes: int,
    codes_bytes: int,
    second: int,
    second_bytes: int,
    mask: int,
    mask_bytes: int,
    inside_low: float,
    inside_high: float,
    rule: bytes,
    threads: int,
) -> tuple[float, float]: ...
def pack_thresholds(
    x: int,
    x_bytes: int,
    bf16: bool,
    n: int,
    inv: int,
    inv_bytes: int,
    run: int,
    codes: int,
    codes_bytes: int,
    mask: int,
    mask_bytes: int,
    inside_low: float,
    inside_high: float,
    rule: bytes,
    threads: int,
) -> tuple[float, float]: ...
def pack_stochastic(
    x: int,
    x_bytes: int,
    bf16: bool,
    n: int,
    inv: int,
    inv_bytes: int,
    run: int,
    codes: int,
    codes_bytes: int,
    mask: int,
    mask_bytes: int,
    inside_low: float,
    inside_high: float,
    rule: bytes,
    seed: int,
    rank: int,
    layer: int,
    call: int,
    operand: int,
    channels: int,
    pixels: int,
    threads: int,
) -> tuple[float, float]: ...
def quantize_integer(
    x: int,
    x_bytes: int,
    n: int,
    rule: bytes,
    clip: int,
    clip_bytes: int,
    codes: int,
    codes_bytes: int,
    mask: int,
    mask_bytes: int,
    multiplier: int,
    multiplier_bytes: int,
    threads: int,
) -> None: ...
def quantize_gradient(
    x: int,
    x_bytes: int,
    n: int,
    used: float,
    rule: bytes,
    unit: float,
    second_unit: float,
    codes: int,
    codes_bytes: int,
    second: int,
    second_bytes: int,
    numbers: int,
    numbers_bytes: int,
    threads: int,
) -> None: ...
def absmax(
    x: int, x_bytes: int, bf16: bool, rows: int, run: int, out: int, out_bytes: int, threads: int
) -> None: ...
def random24(
    seed: int,
    rank: int,
    layer: int,
    call: int,
    operand: int,
    n: int,
    out: int,
    out_bytes: int,
    threads: int,
) -> None: ...
def relayout(
    codes: int,
    codes_bytes: int,
    n: int,
    rows: int,
    columns: int,
    out: int,
    out_bytes: int,
    threads: int,
) -> None: ...
def tree_sums(
    x: int, x_bytes: int, batch: int, n: int, out: int, out_bytes: int, threads: int
) -> None: ...
def moments(
    x: int, x_bytes: int, batch: int, n: int, out: int, out_bytes: int, threads: int
) -> None: ...
def mask_gradient(
    dx: int,
    dx_bytes: int,
    n: int,
    mask: int,
    mask_bytes: int,
    codes: int,
    codes_bytes: int,
    sides: bytes,
    two_sided: bool,
    threads: int,
) -> tuple[float, float]: ...
def layer_norm_forward(
    rows: int,
    width: int,
    x: _Span,
    weight: _Span,
    bias: _Span,
    eps: float,
    y: _Span,
    packed: _Span,
    stats: _Span,
    threads: int,
) -> None: ...
def layer_norm_backward(
    rows: int,
    width: int,
    dy: _Span,
    packed: _Span,
    stats: _Span,
    weight: _Span,
    dx: _Span,
    dweight: _Span,
    dbias: _Span,
    threads: int,
) -> None: ...
def pack_slopes(slopes: _Span, count: int, packed: _Span, threads: int) -> None: ...
def slope_grad(dy: _Span, packed: _Span, count: int, dx: _Span, threads: int) -> None: ...
def take(shape: list[int], strides: list[int], dtype: str, kind: str) -> torch.Tensor: ...
def hollow(address: int) -> None: ...
def tag(address: int, tag: int) -> None: ...
def owns(address: int, tag: int) -> bool: ...
def pool_use() -> dict[str, int]: ...
def pool_release() -> int: ...

# csrc/recurrent. Sequence: cell (0 tanh, 1 relu, 2 lstm, 3 gru), sizes, reverse, hidden, threads.
# StepRule: kind (0 integer, 1 log, 2 thresholds), its bytes, factor, multiplier, table, low, high.
# The last member of _Operand says here whether the contraction is contiguous.
_Sequence = tuple[int, list[int], bool, int, int]
_StepRule = tuple[int, bytes, float, float, _Span, int, int]

def sequence_fits(low_a: int, high_a: int, low_b: int, high_b: int, k: int, /) -> bool: ...
def sequence_forward(
    shape: _Sequence,
    rule: _StepRule,
    weights: _Operand,
    scale: _Span,
    bias: _Span,
    gx: _Span,
    h: _Span,
    c: _Span,
    y: _Span,
    gates: _Span,
    before: _Span,
    inputs: _Span,
    /,
) -> None: ...
def sequence_backward(
    shape: _Sequence,
    rule: _StepRule,
    weights: _Operand,
    scale: _Span,
    mask: _Span,
    codes: _Span,
    sides: bytes,
    two_sided: bool,
    y: _Span,
    gates: _Span,
    before: _Span,
    dy: _Span,
    dh: _Span,
    dc: _Span,
    dgx: _Span,
    dgh: _Span,
    /,
) -> tuple[float, float, float]: ...
