"""How a user of each other package would train the same model: one small function a package.

Each takes a float32 model, changes or replaces it, and returns it. Packages that quantise layers
of their own classes get them by a walk over the model (`swap`); weights are taken over. What a
package cannot do is an error that the report shows. Versions and settings are the ones of each
package's own documentation for 4 bits, or for its nearest kind of training.

Not here: google/aqt, which is JAX.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Peer:
    """`package`: what must import; `install`: how to get it; `gradients`: what the gradients of
    the products are rounded to; `models`: the workloads it has layers for; `make` is called with
    the model, and with an example of its input where `wants_example`."""

    name: str
    package: str
    install: str
    gradients: str
    make: Callable[..., nn.Module]
    models: tuple[str, ...] = ("vision", "transformer")
    wants_example: bool = False


def swap(model: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """Replace every submodule for which `make` returns another one.

    >>> swap(nn.Sequential(nn.ReLU()), lambda m: nn.Tanh() if isinstance(m, nn.ReLU) else None)
    Sequential(
      (0): Tanh()
    )
    """
    for name, child in model.named_children():
        new = make(child)
        if new is None:
            swap(child, make)
        else:
            setattr(model, name, new)
    return model


def hidden_layers(model: nn.Module) -> set[nn.Module]:
    """Convolutions and linear layers but for the first and the last of a network of images, or
    the head of a transformer: what the recipe leaves wide, peers leave in float32."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    has_images = any(isinstance(m, nn.Conv2d) for m in layers)
    return set(layers[1:-1] if has_images else layers[:-1])


class _Autocast(nn.Module):
    """bfloat16 autocast around a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.model(*args, **kwargs)


def bf16(model: nn.Module) -> nn.Module:
    """torch's own bfloat16 autocast: no 4-bit training, but what else torch offers for speed."""
    return _Autocast(model)


def torch_ao(model: nn.Module) -> nn.Module:
    """torch.ao fake quantisation, 4-bit weights by channel and activations by moving average."""
    import torch.ao.quantization as q

    activation = q.FusedMovingAvgObsFakeQuantize.with_args(
        observer=q.MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=15,
        dtype=torch.quint8,
        qscheme=torch.per_tensor_affine,
    )
    weight = q.FusedMovingAvgObsFakeQuantize.with_args(
        observer=q.MovingAveragePerChannelMinMaxObserver,
        quant_min=-8,
        quant_max=7,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    )
    wanted = hidden_layers(model)
    for module in model.modules():
        both = q.QConfig(activation=activation, weight=weight) if module in wanted else None
        setattr(module, "qconfig", both)  # noqa: B010 (torch's own protocol; no field of Module)
    prepared: nn.Module = q.prepare_qat(model.train())
    return prepared


def brevitas(model: nn.Module) -> nn.Module:
    """Brevitas: 4-bit weights, 4-bit inputs of layers."""
    qnn = importlib.import_module("brevitas.nn")
    kinds = importlib.import_module("brevitas.quant")
    wanted = hidden_layers(model)
    options = {
        "weight_bit_width": 4,
        "input_quant": kinds.Int8ActPerTensorFloat,
        "input_bit_width": 4,
    }

    def make(m: nn.Module) -> nn.Module | None:
        if m not in wanted:
            return None
        new: nn.Module
        if isinstance(m, nn.Conv2d):
            new = qnn.QuantConv2d(
                m.in_channels,
                m.out_channels,
                m.kernel_size,
                stride=m.stride,
                padding=m.padding,
                bias=m.bias is not None,
                **options,
            )
        elif isinstance(m, nn.Linear):
            new = qnn.QuantLinear(m.in_features, m.out_features, m.bias is not None, **options)
        else:
            return None
        new.load_state_dict(m.state_dict(), strict=False)
        return new

    return swap(model, make)


def torchao_qat(model: nn.Module) -> nn.Module:
    """torchao quantisation-aware training of linear layers: int4 weights and activations."""
    ao, qat = (importlib.import_module(name) for name in ("torchao", "torchao.quantization.qat"))
    int4 = getattr(torch, "int4")  # noqa: B009 (torch's annotations lack it)
    activation = qat.IntxFakeQuantizeConfig(int4, "per_token", is_symmetric=False)
    weight = qat.IntxFakeQuantizeConfig(int4, "per_channel")
    ao.quantize_(
        model,
        qat.QATConfig(activation_config=activation, weight_config=weight, step="prepare"),
        filter_fn=_inside(model),
    )
    return model


def torchao_int8(model: nn.Module) -> nn.Module:
    """torchao int8 mixed precision, all three products; only this form is not a silent no-op."""
    ao = importlib.import_module("torchao")
    training = importlib.import_module("torchao.prototype.quantized_training")
    config = training.Int8MixedPrecisionTrainingConfig(module_swap=True)
    ao.quantize_(model, config, filter_fn=_inside(model))
    return model


def _inside(model: nn.Module) -> Callable[[nn.Module, str], bool]:
    wanted = hidden_layers(model)
    return lambda module, name: isinstance(module, nn.Linear) and module in wanted


def qtorch(model: nn.Module) -> nn.Module:
    """QPyTorch: inputs of layers and the gradients through them in FP4 E2M1."""
    quant = importlib.import_module("qtorch.quant")
    kinds = importlib.import_module("qtorch")
    number = kinds.FloatingPoint(exp=2, man=1)
    wanted = hidden_layers(model)

    def make(m: nn.Module) -> nn.Module | None:
        if m not in wanted:
            return None
        q = quant.Quantizer(
            forward_number=number,
            backward_number=number,
            forward_rounding="nearest",
            backward_rounding="stochastic",
        )
        return nn.Sequential(q, m)

    return swap(model, make)


def microxcaling(model: nn.Module) -> nn.Module:
    """microxcaling: MXFP4 (E2M1, blocks of 32) in all three products."""
    mx = importlib.import_module("mx")
    specs = mx.finalize_mx_specs(
        {
            "scale_bits": 8,
            "w_elem_format": "fp4_e2m1",
            "a_elem_format": "fp4_e2m1",
            "block_size": 32,
            "bfloat": 0,
            "custom_cuda": False,
            "quantize_backprop": True,
        }
    )
    wanted = hidden_layers(model)

    def make(m: nn.Module) -> nn.Module | None:
        if m not in wanted:
            return None
        new: nn.Module
        if isinstance(m, nn.Conv2d):
            new = mx.Conv2d(
                m.in_channels,
                m.out_channels,
                m.kernel_size,
                stride=m.stride,
                padding=m.padding,
                bias=m.bias is not None,
                mx_specs=specs,
            )
        elif isinstance(m, nn.Linear):
            new = mx.Linear(m.in_features, m.out_features, m.bias is not None, mx_specs=specs)
        else:
            return None
        new.load_state_dict(m.state_dict(), strict=False)
        return new

    return swap(model, make)


class _Lora(nn.Module):
    """A frozen base layer and two small trained matrices beside it."""

    def __init__(self, base: nn.Module, inputs: int, outputs: int, rank: int = 8) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x) + self.up(self.down(x))
        return y


def bitsandbytes(model: nn.Module) -> nn.Module:
    """bitsandbytes: frozen FP4 weights, and LoRA of rank 8 in float32: another kind of training."""
    bnb = importlib.import_module("bitsandbytes")
    wanted = hidden_layers(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)

    def make(m: nn.Module) -> nn.Module | None:
        if m not in wanted or not isinstance(m, nn.Linear):
            return None
        base = bnb.nn.Linear4bit(
            m.in_features,
            m.out_features,
            bias=m.bias is not None,
            compute_dtype=torch.float32,
            quant_type="fp4",
        )
        base.load_state_dict(m.state_dict())
        base = base.to("cpu")  # this is what quantises
        for parameter in base.parameters():
            parameter.requires_grad_(False)
        return _Lora(base, m.in_features, m.out_features)

    return swap(model, make)


def fms_model_optimizer(model: nn.Module, example: Tensor) -> nn.Module:
    """IBM's fms-model-optimizer: SAWB+ weights and PACT+ inputs in 4 bits."""
    fmsmo = importlib.import_module("fms_mo")
    config = fmsmo.qconfig_init()
    config.update(nbits_w=4, nbits_a=4, qw_mode="sawb+", qa_mode="pact+", qmodel_calibration=1)
    fmsmo.qmodel_prep(model, [(example,)], config)
    return model


NO = "no"
PEERS = (
    Peer("torch bfloat16 autocast", "torch", "in torch", "bfloat16", bf16),
    Peer("torch.ao fake quantisation, W4A4", "torch.ao.quantization", "in torch", NO, torch_ao),
    Peer("brevitas, W4A4", "brevitas", "pip install brevitas", NO, brevitas),
    Peer(
        "torchao QAT, int4",
        "torchao",
        "pip install torchao",
        NO,
        torchao_qat,
        ("transformer",),
    ),
    Peer(
        "torchao int8 mixed precision",
        "torchao",
        "pip install torchao",
        "int8",
        torchao_int8,
        ("transformer",),
    ),
    Peer("qtorch, FP4 inputs and gradients", "qtorch", "pip install qtorch", "4 bits", qtorch),
    Peer(
        "microxcaling, MXFP4",
        "mx",
        "git clone https://github.com/microsoft/microxcaling, on PYTHONPATH",
        "4 bits",
        microxcaling,
    ),
    Peer(
        "bitsandbytes, FP4 weights and LoRA",
        "bitsandbytes",
        "pip install bitsandbytes",
        NO,
        bitsandbytes,
        ("transformer",),
    ),
    Peer(
        "fms-model-optimizer, SAWB+ and PACT+",
        "fms_mo",
        "pip install fms-model-optimizer",
        NO,
        fms_model_optimizer,
        wants_example=True,
    ),
)
