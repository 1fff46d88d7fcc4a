"""`nn.Linear` with its three Gemms in few bits."""

from __future__ import annotations

from torch import Tensor, nn

from nybble.nn.state import QuantizedLayer


class Linear(QuantizedLayer, nn.Linear):
    """A converted `torch.nn.Linear`: `y = x W^T + b`, x of any leading shape."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return self._rows_gemm(input, self.weight, self.bias)
