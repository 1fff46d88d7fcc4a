"""What torch's operators are to a machine: views, Gemms, movements, or arithmetic on elements.

    KINDS[operator] = Kind(cause, operations per element, passes over the input)

`cause` is the row of a report. Operations count multiply, add, compare and select as one, and a
special function (exp, tanh, reciprocal, square root) as `SPECIAL`, since vector units evaluate it
by a table and a few steps. `passes` is how often the larger input is read: batch normalisation
needs its statistics before it can use them, so twice; a softmax or layer norm keeps a row on chip.

Source: counted from the formulas. Not done here: what a machine's own instruction set can do in
one step. An operator that is in none of the tables is counted as `UNCOVERED`: one operation an
element, named in the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NORM: Final = "normalisation"
ACTIVATION: Final = "activation"
SOFTMAX: Final = "softmax"
LOSS: Final = "loss"
ADD: Final = "additions"
MOVE: Final = "movement"
QUANTISE: Final = "quantisation"
OPTIMIZER: Final = "optimizer"
UNCOVERED: Final = "uncovered"
OUTPUT: Final = "output"
GRAD_INPUT: Final = "grad_input"
GRAD_WEIGHT: Final = "grad_weight"
COMMUNICATION: Final = "communication"

GEMMS: Final = (OUTPUT, GRAD_INPUT, GRAD_WEIGHT)
CAUSES: Final = (
    *(*GEMMS, QUANTISE, NORM, ACTIVATION, SOFTMAX, ADD, MOVE, LOSS, OPTIMIZER, UNCOVERED),
    COMMUNICATION,
)

SPECIAL: Final = 4


@dataclass(frozen=True)
class Kind:
    """See the module. `inputs`: how many tensors are really read, all if None."""

    cause: str
    operations: int
    passes: int = 1
    inputs: int | None = None


GEMM_OPERATORS: Final = frozenset(
    ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "convolution", "convolution_backward")
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# They make a tensor that is another's memory, or none at all, or are bookkeeping.
VIEWS: Final = _words(
    """
    t_ transpose_ squeeze_ unsqueeze_ view _unsafe_view t transpose permute
    expand select slice unbind split unsafe_split
    split_with_sizes unsafe_split_with_sizes chunk squeeze unsqueeze detach detach_ alias
    as_strided unfold reshape diagonal _reshape_alias lift_fresh movedim swapaxes real view_as_real
    empty empty_like empty_strided new_empty new_empty_strided scalar_tensor
    _record_function_enter_new _record_function_exit record_stream sym_size is_same_size
    _local_scalar_dense set_ resize_ requires_grad_ _assert_async _assert_tensor_metadata
    """
)


def _kinds() -> dict[str, Kind]:
    table: dict[str, Kind] = {}

    def put(names: str, cause: str, operations: int, **more: int) -> None:
        for name in names.split():
            table[name] = Kind(cause, operations, **more)

    # Forward: sum and sum of squares in one pass, then subtract, scale, shift. Backward: two sums
    # of products, then three operations.
    batch = "native_batch_norm _native_batch_norm_legit native_batch_norm_legit cudnn_batch_norm"
    put(f"{batch} _batch_norm_with_update _native_batch_norm_legit_functional", NORM, 7, passes=2)
    put("native_batch_norm_backward batch_norm_backward", NORM, 9, passes=2)
    put("native_layer_norm native_group_norm _fused_rms_norm rms_norm", NORM, 8)
    put("native_layer_norm_backward native_group_norm_backward _fused_rms_norm_backward", NORM, 12)

    put("relu relu_ threshold threshold_backward hardtanh hardtanh_ clamp clamp_", ACTIVATION, 1)
    put(
        "leaky_relu leaky_relu_ leaky_relu_backward hardtanh_backward clamp_min clamp_max",
        ACTIVATION,
        2,
    )
    put("clamp_min_ prelu _prelu_kernel _prelu_kernel_backward", ACTIVATION, 2)
    put("hardsigmoid hardsigmoid_backward hardswish hardswish_ hardswish_backward", ACTIVATION, 4)
    put(
        "sigmoid sigmoid_ tanh tanh_ exp log sqrt rsqrt reciprocal elu elu_",
        ACTIVATION,
        SPECIAL + 1,
    )
    put(
        "erf sin cos pow exp2 log2 log1p expm1 softplus logsigmoid_forward", ACTIVATION, SPECIAL + 1
    )
    put("sigmoid_backward tanh_backward", ACTIVATION, 3)
    put("gelu silu silu_ mish", ACTIVATION, SPECIAL + 5)
    put(
        "gelu_backward silu_backward mish_backward elu_backward softplus_backward",
        ACTIVATION,
        2 * SPECIAL + 4,
    )
    put("log_sigmoid_backward", ACTIVATION, SPECIAL + 4)
    put(
        "native_dropout bernoulli bernoulli_ rand rand_like uniform_ randn randn_like normal_",
        ACTIVATION,
        6,
    )
    put("native_dropout_backward", ACTIVATION, 2)

    put("_softmax _log_softmax _safe_softmax logsumexp", SOFTMAX, SPECIAL + 4)
    put("_softmax_backward_data _log_softmax_backward_data _masked_softmax_backward", SOFTMAX, 4)

    put(
        "nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward",
        LOSS,
        1,
        inputs=1,
    )
    put("mse_loss mse_loss_backward binary_cross_entropy_with_logits smooth_l1_loss", LOSS, 4)
    put("_ctc_loss _ctc_loss_backward", LOSS, 3 * SPECIAL)
    put(
        "binary_cross_entropy binary_cross_entropy_backward smooth_l1_loss_backward",
        LOSS,
        2 * SPECIAL,
    )

    put("add add_ sub sub_ rsub mul mul_ div div_ neg neg_ abs sign where maximum minimum", ADD, 1)
    put("masked_fill masked_fill_ lerp lerp_ eq ne lt le gt ge logical_not logical_and", ADD, 1)
    put("logical_or bitwise_and bitwise_or bitwise_not isnan isinf square floor ceil round", ADD, 1)
    put("addcmul addcmul_ addcdiv addcdiv_ fmod remainder tril triu", ADD, 2)
    put("sum mean prod any all amax amin max min argmax argmin cumsum var var_mean norm", ADD, 1)
    put("linalg_vector_norm _foreach_norm nan_to_num", ADD, 2)

    # A maximum or mean over a window reads each element about once for every window that holds it.
    put(
        "max_pool2d_with_indices max_pool1d avg_pool2d _adaptive_avg_pool2d avg_pool1d",
        ACTIVATION,
        4,
    )
    put("max_pool2d_with_indices_backward avg_pool2d_backward", ACTIVATION, 2)
    put(
        "_adaptive_avg_pool2d_backward upsample_nearest2d upsample_nearest2d_backward",
        ACTIVATION,
        1,
    )
    put("upsample_bilinear2d upsample_bilinear2d_backward", ACTIVATION, 8)

    put(
        "clone copy copy_ cat stack contiguous _to_copy zeros zeros_like ones ones_like full",
        MOVE,
        0,
    )
    put(
        "full_like new_zeros new_ones new_full fill fill_ zero_ arange repeat index_select", MOVE, 0
    )
    put(
        "constant_pad_nd reflection_pad1d reflection_pad2d roll flip narrow_copy gather scatter",
        MOVE,
        0,
    )
    put(
        "slice_backward select_backward unfold_backward embedding index index_put index_put_",
        MOVE,
        0,
    )
    put(
        "_unsafe_index _unsafe_index_put as_strided_scatter slice_scatter select_scatter im2col",
        MOVE,
        0,
    )
    put("embedding_dense_backward index_add index_add_ scatter_add scatter_add_ col2im", MOVE, 1)
    put(
        "embedding_renorm_ pixel_shuffle pixel_unshuffle linspace eye _pack_padded_sequence",
        MOVE,
        0,
    )
    return table


KINDS: Final = _kinds()


def kind_of(operator: str) -> Kind:
    """The kind of an operator by its name without overload, `native_batch_norm`.

    >>> kind_of("native_batch_norm").passes, kind_of("my_operator").cause
    (2, 'uncovered')
    """
    return KINDS.get(operator, Kind(UNCOVERED, 1))
