"""BatchNorm and LayerNorm at 4 bits a value; a ReLU after BatchNorm costs nothing more."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nybble.nn.memory.base import MemoryLayer, Token, compresses, has_hooks, is_temporary
from nybble.nn.memory.norm_function import (
    BatchNormFunction,
    LayerNormFunction,
    NativeBatchNormFunction,
    NativeLayerNormFunction,
)
from nybble.ops.native import norm as native

if TYPE_CHECKING:
    from torch.nn.modules.batchnorm import _BatchNorm as _TorchBatchNorm
else:
    _TorchBatchNorm = nn.Module


class _BatchNorm(MemoryLayer, _TorchBatchNorm):
    """What BatchNorm1d and 2d share. In eval mode, and without a graph, torch's own."""

    memory_kind = "norm"
    memory_keeps = "4 bits a value"

    def forward(self, input: Tensor) -> Tensor:
        """torch's batch normalisation; with the ReLU that follows where `fuse.py` found one."""
        if torch.compiler.is_compiling():
            return super().forward(input)
        references = sys.getrefcount(input)
        own = self.training and input.is_floating_point() and input.numel() > 0
        if not own or not compresses(input, self.weight, self.bias):
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        F._verify_batch_size(input.size())  # type: ignore[attr-defined]
        momentum = 0.0 if self.momentum is None else self.momentum
        tracked = self.track_running_stats
        if tracked and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        token = Token() if self._fuses() else None
        running = (self.running_mean, self.running_var)
        fits = native.fits(self._nybble_memory_backend, input, (self.weight, self.bias, *running))
        function = NativeBatchNormFunction if fits else BatchNormFunction
        y: Tensor = function.apply(  # type: ignore[no-untyped-call]
            input,
            self.weight,
            self.bias,
            self.running_mean if tracked else None,
            self.running_var if tracked else None,
            momentum,
            self.eps,
            token,
            fits and is_temporary(input, references) and self._may_overwrite(input),
        )
        if token is not None:
            token.version = y._version
            y._nybble_relu = token  # type: ignore[attr-defined]
        return y

    def _fuses(self) -> bool:
        peers = self._nybble_memory_fused
        return bool(peers) and not has_hooks(self) and not any(has_hooks(peer) for peer in peers)

    def _may_overwrite(self, x: Tensor) -> bool:
        """The input is fresh from a convolution, and neither that nor this module is watched."""
        source = self._nybble_memory_source
        if not source or x.is_leaf or x._is_view() or not x.requires_grad:
            return False
        return not has_hooks(self) and not any(has_hooks(module) for module in source)

    def keeps(self) -> str:
        """In words; says so where the ReLU's mask is part of the codes."""
        return self.memory_keeps + (
            ", the ReLU's mask included" if self._nybble_memory_fused else ""
        )


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """4 bits a value."""


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """4 bits a value."""


class LayerNorm(MemoryLayer, nn.LayerNorm):
    """4 bits a value and two floats a row."""

    memory_kind = "norm"
    memory_keeps = "4 bits a value, 2 floats a row"

    def forward(self, input: Tensor) -> Tensor:
        """torch's layer normalisation."""
        fine = input.is_floating_point() and input.numel() > 0
        if not fine or not compresses(input, self.weight, self.bias):
            return super().forward(input)
        shape = list(self.normalized_shape)
        fits = list(input.shape[-len(shape) :]) == shape and native.layer_norm_fits(
            self._nybble_memory_backend, input, shape, self.weight, self.bias
        )
        function = NativeLayerNormFunction if fits else LayerNormFunction
        y = function.apply(input, self.weight, self.bias, shape, self.eps)  # type: ignore[no-untyped-call]
        return cast(Tensor, y)
