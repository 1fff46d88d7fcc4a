"""Family `norm` (csrc/norm): fused batch normalisation and ReLU. There is no other implementation
of these operations, in their order, than the kernels: the expected bits are those of the generic
ones on the machine that wrote the file, so it is tested that all sets and processors agree."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from golden_cases.values import Case, Value, generator
from nybble.ops.native import core
from nybble.ops.native import norm as native


def norm() -> Iterator[Case]:
    """Channels that divide 64, that do not, and more than 64; with and without affine and ReLU."""
    module, reason = core()
    if module is None:
        raise SystemExit(f"golden vectors of `norm` need the compiled module: {reason}")
    module.use_isa("generic")
    make = generator(6)
    for pixels, channels, relu, affine in (
        (1, 3, True, True),
        (50, 16, True, True),
        (37, 5, False, True),
        (130, 7, True, False),
        (9, 70, True, True),
    ):
        x = torch.randn(pixels, channels, generator=make) * 3.0 + 1.0
        values: dict[str, Value] = {"x": x, "relu": int(relu)}
        weight = torch.rand(channels, generator=make) - 0.3 if affine else None
        bias = torch.randn(channels, generator=make) if affine else None
        mean, var = torch.randn(channels, generator=make), torch.rand(channels, generator=make)
        if weight is not None and bias is not None:
            values |= {"weight": weight, "bias": bias}
        values |= {"mean_before": mean.clone(), "var_before": var.clone()}
        y, packed, stats = native.batch_norm_forward(x, weight, bias, mean, var, 0.1, 1e-5, relu)
        values |= {"y": y, "codes": packed, "stats": stats, "mean": mean, "var": var}
        dy = torch.randn(pixels, channels, generator=make)
        dx, dgamma, dbeta = native.batch_norm_backward(dy, packed, stats)
        assert dx is not None
        values |= {"dy": dy, "dx": dx, "dgamma": dgamma, "dbeta": dbeta}
        yield f"batch {pixels}x{channels} relu={relu}", values
    for count in (1, 64, 203):
        x = torch.randn(count, generator=make)
        x[0] = -0.0
        y, bits = native.relu_forward(x)
        dy = torch.randn(count, generator=make)
        dx = native.relu_backward(dy, bits, False)
        yield f"relu {count}", {"x": x, "y": y, "bits": bits, "dy": dy, "dx": dx}
    module.use_isa("")
