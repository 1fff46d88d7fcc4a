"""A learned clip that no optimizer steps: plain `model.parameters()` holds it, a list of one's own
may not, and nothing else would show it. The layer says so once."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nybble.nn.state import QuantizedLayer

__all__ = ["watch_clip"]


def watch_clip(layer: QuantizedLayer) -> None:
    """Say once that no optimizer holds the clip: the weight was stepped and the clip was not.

    torch counts in-place changes of a tensor, and an optimizer's step is one. The weight's
    count at the first gradient of the clip is compared with the one two steps later.
    """
    if layer._nybble_versions == (-1, -1):
        return
    alpha = layer.nybble_alpha
    if alpha is None or alpha.grad is None or not layer.learns_clip:
        return
    now = (layer.weight._version, alpha._version)
    before = layer._nybble_versions
    if before is None:
        layer._nybble_versions = now
    elif now[1] != before[1]:
        layer._nybble_versions = (-1, -1)  # the clip moves: nothing to watch
    elif now[0] > before[0] + 1 and alpha.requires_grad:
        layer._nybble_versions = (-1, -1)
        warnings.warn(
            f"the PACT clip {layer.nybble_name}.nybble_alpha gets gradients, but no optimizer"
            " steps it: pass nybble.param_groups(model, lr=...) to the optimizer",
            stacklevel=5,
        )
