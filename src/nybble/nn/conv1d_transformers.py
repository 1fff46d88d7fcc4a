"""transformers' `Conv1D` (GPT-2's body), which is a Linear with a transposed weight.

The class is known by its name and module, so that transformers is never imported for it; the
converted class is made when the first such layer is met.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from nybble.nn.state import QuantizedLayer


def is_conv1d(cls: type[nn.Module]) -> bool:
    """Whether a class is transformers' Conv1D."""
    return cls.__name__ == "Conv1D" and cls.__module__.startswith("transformers.")


_CLASSES: dict[type[nn.Module], type[QuantizedLayer]] = {}


def conv1d_class(base: type[nn.Module]) -> type[QuantizedLayer]:
    """The converted subclass of transformers' Conv1D, made once."""
    if base not in _CLASSES:
        _CLASSES[base] = _make_class(base)
    return _CLASSES[base]


def _make_class(base: type[nn.Module]) -> type[QuantizedLayer]:

    def forward(self: QuantizedLayer, x: Tensor) -> Tensor:
        """[..., nx] to [..., nf]: y = x W + b with W of shape [nx, nf]."""
        return self._rows_gemm(x, self.weight.t(), cast(Tensor, self.bias))

    def extra_repr(self: QuantizedLayer) -> str:
        from nybble.nn.state import describe_spec

        nx, nf = self.weight.shape
        return f"{nx}, {nf}, {describe_spec(self._resolved_spec())}"

    members = {"forward": forward, "extra_repr": extra_repr, "__module__": __name__}
    return cast(type[QuantizedLayer], type("Conv1D", (QuantizedLayer, base), members))
