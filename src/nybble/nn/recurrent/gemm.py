"""One Gemm of a recurrent layer, with the quantisation state that a converted layer has.

    ih   input-hidden: one Gemm for the whole sequence, as a Linear's
    hh   hidden-hidden: one step after the other; runs the time loop
    hr   the projection of an LSTM, inside the same loop

It is a child of its layer (`lstm.hh_l0` of `lstm.weight_hh_l0`) and owns no weight: `weight` is the
layer's. Of a GradScale it keeps one number, moved once an iteration by the largest gradient of all
steps. A number that moved at every step would run after the maxima of single steps: see
docs/recurrent.md.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nybble.nn.function import LayerCall
from nybble.nn.hooks import hooked_weight
from nybble.nn.inputs import UNSEEN
from nybble.nn.recurrent.function import SequenceCall, SequenceFunction, infer
from nybble.nn.state import QuantizedLayer, describe_spec
from nybble.nn.steps import refuse_steps
from nybble.ops.geometry import Geometry
from nybble.ops.recurrent import Sequence, StepGemm
from nybble.ops.reference import recurrent as reference
from nybble.ops.reference.operand import Draw
from nybble.ops.spec import LayerSpec

__all__ = ["RecurrentGemm"]

_LINEAR = Geometry("linear")


class RecurrentGemm(QuantizedLayer):
    """See the module. `owner`: the recurrent layer; `part`: `ih_l0`, `hh_l1_reverse`, `ih` ..."""

    def __init__(self, owner: nn.Module, part: str) -> None:
        super().__init__()
        # Not registered: the layer is the parent of this module already.
        self.__dict__["_nybble_owner"] = owner
        self.__dict__["_nybble_part"] = part

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The layer's own parameter."""
        return getattr(self._nybble_owner, f"weight_{self._nybble_part}")  # type: ignore[no-any-return]

    @property
    def nybble_owner(self) -> nn.Module:
        """The recurrent layer."""
        return self.__dict__["_nybble_owner"]  # type: ignore[no-any-return]

    @property
    def nybble_part(self) -> str:
        """Which of its Gemms this is."""
        return str(self.__dict__["_nybble_part"])

    def forward(self, *args: Any) -> Any:
        """`ih`: (rows, bias) to rows. `hh`: the arguments of `run`."""
        if not self.nybble_part.startswith("ih"):
            return self.run(*args)
        rows, bias = args
        return self._rows_gemm(rows, self.weight, bias)

    def run(
        self,
        gx: Tensor,
        h0: Tensor,
        c0: Tensor | None,
        bias: Tensor | None,
        projection: RecurrentGemm | None,
        mode: Any,
        sizes: tuple[int, ...],
        reverse: bool,
    ) -> tuple[Tensor, ...]:
        """The time loop: y [rows, P], h_n and, of an LSTM, c_n; all float32."""
        layers = [self] if projection is None else [self, projection]
        sequence = Sequence(mode, sizes, reverse, self.nybble_accumulate, self.nybble_backend)
        weights = [hooked_weight(layer, layer.weight, _LINEAR) for layer in layers]
        self._learn_clips(layers, gx, h0, c0, bias, weights, sequence)
        calls = tuple(layer.call_for(gx) for layer in layers)
        alphas = [layer._clips(one.spec) for layer, one in zip(layers, calls, strict=True)]
        hr, hr_alpha = (weights[1], alphas[1]) if len(layers) > 1 else (None, None)
        call = SequenceCall(sequence, calls)
        operands = (gx, h0, c0, weights[0], bias, alphas[0], hr, hr_alpha)
        if not torch.is_grad_enabled():
            return infer(*operands, call)
        found: tuple[Tensor, ...] = SequenceFunction.apply(*operands, call, layers)  # type: ignore[no-untyped-call]
        return found

    def products(self) -> list[tuple[str, Tensor]]:
        """(part, weight) of every Gemm that a call of this module computes, each once a row: `hh`
        computes the projection too."""
        found = [(self.nybble_part, self.weight)]
        projection = self.nybble_part.replace("hh", "hr")
        child = self.nybble_owner._modules.get(projection)
        if isinstance(child, RecurrentGemm) and child is not self:
            found.append((projection, child.weight))
        return found

    def flows(self, part: str, inputs: list[Tensor]) -> bool:
        """Whether the input of a Gemm of `products` has a gradient; `inputs`: of this call."""
        if part.startswith("ih"):
            return inputs[0].requires_grad
        # A state takes the gradient of the steps after it on to all that made it.
        return any(x.requires_grad for x in (*inputs, *(w for _, w in self.products())))

    def call_for(self, x: Tensor) -> LayerCall:
        """What one forward fixes; advances the call counter and moves GradScale."""
        return LayerCall(
            spec=self._resolved_spec().bare,
            geometry=_LINEAR,
            accumulate=self.nybble_accumulate,
            backend=self.nybble_backend,
            seed=self.nybble_seed,
            layer=self.nybble_index,
            call=self._next_call(x),
        )

    @staticmethod
    def _learn_clips(
        layers: list[RecurrentGemm],
        gx: Tensor,
        h0: Tensor,
        c0: Tensor | None,
        bias: Tensor | None,
        weights: list[Tensor],
        sequence: Sequence,
    ) -> None:
        """Set clips that no batch has set, from what the Gemms of the loop would see in float32."""
        if all(layer._nybble_ready for layer in layers):
            return
        inputs: list[Tensor | None] = []
        for i, layer in enumerate(layers):
            if layer._nybble_ready:
                continue
            if layer.nybble_alpha is not None and not inputs:
                plain = [StepGemm(LayerSpec(), Draw(0, 0, 0)) for _ in layers]
                inputs = reference.forward(
                    gx.detach(),
                    h0.detach(),
                    None if c0 is None else c0.detach(),
                    reference.Weights(
                        weights[0].detach(),
                        None if bias is None else bias.detach(),
                        None,
                        weights[1].detach() if len(weights) > 1 else None,
                    ),
                    sequence,
                    plain,
                    True,
                ).inputs
            seen = inputs[i] if inputs else None
            layer._nybble_ready = layer._see_steps(gx[:0] if seen is None else seen)

    def _see_steps(self, x: Tensor) -> bool:
        """`_see_input`, but an operand of zeros (one step from no state) teaches nothing."""
        if self.nybble_alpha is not None and not bool((x != 0).any()):
            if self._nybble_kind in (None, UNSEEN):
                self._nybble_kind = int(self.nybble_input_kind.item()) or UNSEEN
            return False
        return self._see_input(x)

    def attach_(self, spec: LayerSpec, **info: Any) -> None:
        """Add the state. Hidden states of tanh and of LSTMs and GRUs have both signs."""
        owner, part = self.nybble_owner, self.nybble_part
        if not part.startswith("ih"):
            info["inputs"] = None if _is_relu(owner) else "signed"
            refuse_steps(spec, str(info.get("name", part)))
        super().attach_(spec, **info)

    def start_afresh_(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Forget what `state_dict` does not hold, if it holds this Gemm's weight; `prefix` is the
        layer's. (torch shows a child only its own part of a state_dict.)"""
        name = f"weight_{self.nybble_part}"
        weight = (prefix + name, f"{prefix}parametrizations.{name}.")
        if any(key == weight[0] or key.startswith(weight[1]) for key in state_dict):
            for state in self.state_names():
                if f"{prefix}{self.nybble_part}.{state}" not in state_dict:
                    self._reset(state)

    def extra_repr(self) -> str:
        """The six slots."""
        if not hasattr(self, "nybble_spec"):
            return ""
        return describe_spec(self._resolved_spec())


def _is_relu(owner: nn.Module) -> bool:
    return "relu" in str(getattr(owner, "nonlinearity", "")) or getattr(owner, "mode", "") == (
        "RNN_RELU"
    )
