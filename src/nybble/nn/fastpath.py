"""Keep torch's fused inference kernels away from converted layers.

`nn.TransformerEncoderLayer` in eval mode without gradients hands its linear layers' weights to one
fused kernel and never calls the layers, so a converted layer would silently compute in float32.
`nn.TransformerEncoder` may turn its input into a nested tensor for that kernel. Both ask an
attribute of their own first, which is switched off here and put back by `revert`.

`nn.MultiheadAttention`'s own fused kernel is never reached: converted, it has a forward of its own.
"""

from __future__ import annotations

from torch import nn

from nybble.nn.state import QuantizedLayer

_SWITCHES = (
    (nn.TransformerEncoderLayer, "activation_relu_or_gelu", 0),
    (nn.TransformerEncoder, "use_nested_tensor", False),
)
_KEPT = "_nybble_fast_path"


def block_fast_paths(model: nn.Module) -> None:
    """Make transformer encoders that hold converted layers call them in inference too."""
    for module in model.modules():
        for cls, name, off in _SWITCHES:
            if isinstance(module, cls) and any(
                isinstance(part, QuantizedLayer) for part in module.modules()
            ):
                module.__dict__.setdefault(_KEPT, getattr(module, name, off))
                setattr(module, name, off)


def allow_fast_paths(model: nn.Module) -> None:
    """Undo `block_fast_paths`."""
    for module in model.modules():
        for cls, name, _ in _SWITCHES:
            if isinstance(module, cls) and _KEPT in module.__dict__:
                setattr(module, name, module.__dict__.pop(_KEPT))
