"""`nn.Bilinear` with its three Gemms in few bits: a linear layer on the outer product.

    y_o = sum over (i, j) of W_o,ij (x1_i x2_j) + b_o

The outer product is made in float32 and quantised as one input, so there is one Gemm with two
operands in each direction; its gradient goes on to x1 and x2 by autograd.
"""

from __future__ import annotations

from torch import Tensor, nn

from nybble.errors import UserError
from nybble.nn.state import QuantizedLayer


class Bilinear(QuantizedLayer, nn.Bilinear):
    """A converted `torch.nn.Bilinear`."""

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """[..., in1_features] and [..., in2_features] to [..., out_features]."""
        sizes = (self.in1_features, self.in2_features)
        if (input1.shape[-1], input2.shape[-1]) != sizes or input1.shape[:-1] != input2.shape[:-1]:
            raise UserError(
                f"{type(self).__name__}: the inputs' shapes are {tuple(input1.shape)} and"
                f" {tuple(input2.shape)}, but they must be [..., {sizes[0]}] and [..., {sizes[1]}]"
            )
        outer = (input1.unsqueeze(-1) * input2.unsqueeze(-2)).flatten(-2)
        return self._rows_gemm(outer, self.weight.flatten(1), self.bias)
