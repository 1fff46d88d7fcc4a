"""What a converted layer carries beside torch's own parameters, and how it moves.

    nybble_alpha        parameter, PACT's clip(s); 0 until the first batch sets it
    nybble_input_kind   0 not seen yet, 1 unsigned, 2 signed
    nybble_grad_scale   GradScale's power of two, Hindsight's maximum; 0 until the first gradient
    nybble_grad_amax    largest |output gradient| since the scale last moved; 0: none
    nybble_calls        training forwards so far: the `call` of the random key
    nybble_hook_*       what the recipe's hook keeps, if it has one (hooks.py)
    nybble_step_*       parameters, learned steps, if the recipe has some (steps.py)

All are plain tensors in the layer's state_dict (float32 and int64), whatever dtype the layer is
cast to. A state_dict without them loads under strict=True: the layer then starts afresh.

How GradScale moves: scaling.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nybble.errors import UserError
from nybble.nn import scaling
from nybble.nn.calls import Calls
from nybble.nn.clip_watch import watch_clip
from nybble.nn.eager import eager
from nybble.nn.function import LayerCall, LayerFunction, infer
from nybble.nn.hooks import Seen, add_buffers, hook_names, hooked_weight
from nybble.nn.inputs import SIGNED, SKEWED, UNSEEN, UNSIGNED, input_forms, kind_of
from nybble.nn.steps import add_steps, divided, finished, step_names
from nybble.ops.geometry import Geometry
from nybble.ops.spec import LayerSpec
from nybble.quantizers import PACT, Quantizer

_LINEAR = Geometry("linear")

STATE = (
    "nybble_alpha",
    "nybble_input_kind",
    "nybble_grad_scale",
    "nybble_grad_amax",
    "nybble_calls",
)


class LayerObserver(Protocol):
    """Is shown the float32 operands of a layer's Gemms before they are quantised."""

    def forward(self, call: LayerCall, x: Tensor, weight: Tensor, alpha: Tensor | None) -> None: ...

    def backward(self, call: LayerCall, grad: Tensor, needs: tuple[bool, bool]) -> None: ...


def in_backward() -> bool:
    """Whether autograd's engine is running on this thread: a forward is then a recomputation."""
    return bool(torch._C._current_graph_task_id() != -1)


class QuantizedLayer(nn.Module):
    """Mixin of the converted layers. `attach_` gives a torch layer its state; `detach_` takes it.

    Subclasses are `class Linear(QuantizedLayer, nn.Linear)` and implement `forward` through
    `_gemm(x, weight, bias, geometry)`. They add no constructor: `convert` changes the class of an
    existing layer in place, so parameters, hooks, names and references stay what they were.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            cls.forward = eager(cls.__dict__["forward"])

    weight: Tensor
    nybble_alpha: nn.Parameter | None
    nybble_input_kind: Tensor
    nybble_grad_scale: Tensor
    nybble_grad_amax: Tensor
    nybble_calls: Tensor
    nybble_spec: LayerSpec
    nybble_tail: LayerSpec | None
    _nybble_seen: Seen
    nybble_rule: str
    nybble_backend: str
    nybble_accumulate: str
    nybble_seed: int
    nybble_index: int
    nybble_name: str
    # What looks at the operands of a call (nybble.watching); a layer does not know more of it.
    nybble_observer: LayerObserver | None = None

    def attach_(
        self,
        spec: LayerSpec,
        *,
        name: str,
        rule: str,
        backend: str,
        accumulate: str,
        seed: int,
        index: int,
        inputs: str | None,
        tail: LayerSpec | None = None,
    ) -> None:
        """Add the quantisation state to a layer whose class has just been changed.

        tail: what the layer does in the recipe's last phase, if that differs.
        """
        device = self.weight.device

        def zeros(n: int) -> Tensor:
            return torch.zeros(n, dtype=torch.float32, device=device)

        self.nybble_spec, self.nybble_rule, self.nybble_name = spec, rule, name
        self.nybble_backend, self.nybble_accumulate = backend, accumulate
        self.nybble_seed, self.nybble_index, self.nybble_tail = seed, index, tail
        self._nybble_forms = input_forms(spec)
        self._nybble_calls_seen = Calls()
        self._nybble_group: list[QuantizedLayer] = []
        slot = spec.output_input
        has_clip = isinstance(slot, Quantizer) and isinstance(slot.scale, PACT)
        if has_clip:
            two = spec.signed_inputs == "two_sided"
            self.register_parameter("nybble_alpha", nn.Parameter(zeros(2 if two else 1)))
        else:
            self.register_parameter("nybble_alpha", None)
        kind = {None: UNSEEN, "unsigned": UNSIGNED, "signed": SIGNED}[inputs]
        self._nybble_first_kind, self._nybble_kind = kind, cast("int | None", kind)
        self._nybble_ready = False
        self._nybble_moved = False
        self._nybble_versions: tuple[int, int] | None = None
        self.register_buffer("nybble_input_kind", torch.tensor([kind], device=device))
        self.register_buffer("nybble_grad_scale", zeros(1))
        self.register_buffer("nybble_grad_amax", zeros(1))
        self.register_buffer("nybble_calls", torch.zeros(1, dtype=torch.int64, device=device))
        add_buffers(self)
        add_steps(self, list(self._nybble_forms.values()))

    def state_names(self) -> tuple[str, ...]:
        """Names of all that `attach_` put into the layer's state_dict."""
        return (*STATE, *hook_names(self), *step_names(self))

    def become_(self, spec: LayerSpec) -> None:
        """Do what `spec` says from the next forward on; state that it does not use stays."""
        self.nybble_spec = spec
        self._nybble_forms = input_forms(spec)

    def detach_(self) -> None:
        """Remove all that `attach_` added."""
        for name in self.state_names():
            delattr(self, name)
        for name in list(self.__dict__):
            if name.startswith(("nybble_", "_nybble_")):
                delattr(self, name)

    # ---- the call ---------------------------------------------------------------------------

    def _gemm(self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        """Quantise, multiply, and return in the dtype that torch's own layer would return."""
        device = x.device.type
        known = torch.amp.is_autocast_available(device)
        if known and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            with torch.autocast(device, enabled=False):
                return self._float32_gemm(x, weight, bias, geometry).to(dtype)
        dtype = torch.promote_types(x.dtype, weight.dtype)
        return self._float32_gemm(x, weight, bias, geometry).to(dtype)

    def _rows_gemm(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A linear layer: [..., K] times [N, K] through one matrix product."""
        if x.dim() == 0 or x.shape[-1] != weight.shape[1]:
            raise UserError(
                f"{type(self).__name__}: the input's shape is {tuple(x.shape)}, but its last"
                f" dimension must be {weight.shape[1]}"
            )
        if x.dim() == 2:
            return self._gemm(x, weight, bias, _LINEAR)
        rows = x.reshape(prod(x.shape[:-1]), weight.shape[1])
        y = self._gemm(rows, weight, bias, _LINEAR)
        return y.view(*x.shape[:-1], weight.shape[0])

    def _float32_gemm(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        if _in_transform(x) or _in_transform(weight):
            raise UserError(
                f"{self.nybble_name or type(self).__name__}: torch.func transforms (grad, vmap,"
                " jvp) do not work on converted layers; use backward() or torch.autograd.grad, or"
                " nybble.revert(model) first"
            )
        if not self._nybble_ready:
            self._nybble_ready = self._see_input(x)
        spec = self._resolved_spec()
        call = LayerCall(
            spec=spec.bare,
            geometry=geometry,
            accumulate=self.nybble_accumulate,
            backend=self.nybble_backend,
            seed=self.nybble_seed,
            layer=self.nybble_index,
            call=self._next_call(x),
        )
        x, weight = x.float(), hooked_weight(self, weight, geometry)
        x, weight, factor = divided(self, x, weight, spec, geometry)
        inner = None if bias is None or factor is not None else bias.float()
        operands = (x, weight, inner, self._clips(call.spec))
        result: Tensor
        if torch.is_grad_enabled():
            result = LayerFunction.apply(*operands, call, self)  # type: ignore[no-untyped-call]
        else:
            result = infer(*operands, call)
        return result if factor is None else finished(result, factor, bias, geometry)

    def _clips(self, spec: LayerSpec) -> Tensor | None:
        """The clip(s) that the slot in use takes: inputs may turn out to need one of two."""
        alpha = self.nybble_alpha
        if alpha is None:
            return None
        slot = spec.output_input
        wanted = slot.scale.clips if slot is not None and isinstance(slot.scale, PACT) else 0
        return alpha if alpha.numel() == wanted else alpha[:wanted]

    @property
    def learns_clip(self) -> bool:
        """Whether the layer learns a clip; True too while its inputs may turn out to need one."""
        slot = self._resolved_spec().output_input
        return self.nybble_alpha is not None and slot is not None and isinstance(slot.scale, PACT)

    def _resolved_spec(self) -> LayerSpec:
        return self._nybble_forms[self._nybble_kind or UNSEEN]

    def _see_input(self, x: Tensor) -> bool:
        """Learn from the first batch whether inputs are signed, and set PACT's clip from it.

        Returns whether there is nothing left to learn: an empty batch teaches nothing.
        """
        if self._nybble_kind in (None, UNSEEN):
            # The buffer knows, after loading or where an average of models copied buffers into it.
            self._nybble_kind = int(self.nybble_input_kind.item())
        alpha = self.nybble_alpha
        forms = self._nybble_forms
        if alpha is None and forms[SIGNED] == forms[SKEWED] == forms[UNSIGNED]:
            return True
        if not x.numel():
            return False
        if self._nybble_kind == UNSEEN:
            self._nybble_kind = kind_of(x.detach(), self.nybble_spec)
            with torch.no_grad():
                self.nybble_input_kind.fill_(self._nybble_kind)
        quantizer = self._resolved_spec().output_input
        if not isinstance(quantizer, Quantizer) or not isinstance(quantizer.scale, PACT):
            return True  # there is no clip to learn
        # 0 means that nothing has set the clip; a clip that training pushed below 0 stays there.
        if alpha is not None and bool((alpha.detach() == 0).all()):
            with torch.no_grad():
                fitted = quantizer.scale.initial_alpha(x.detach().float(), quantizer.format)
                alpha.copy_(fitted.reshape(-1).expand_as(alpha))
        return True

    def _next_call(self, x: Tensor) -> int:
        """Advance the call counter, or find the counter that a recomputation must reuse."""
        # Fine-tuning with frozen statistics trains in eval mode; a reentrant checkpoint's first
        # forward has no gradients but is in training mode. What is neither is inference.
        if not self.training and not (torch.is_grad_enabled() and self._learns(x)):
            return 0
        if not in_backward():
            watch_clip(self)
            scaling.move_(self)
            if self._nybble_moved:  # setting an attribute of a module takes longer than asking
                self._nybble_moved = False
            self.nybble_calls.add_(1)
            if not self.nybble_spec.draws:
                return 0
            call = int(self.nybble_calls.item())
            self._nybble_calls_seen.note(x, call)
            return call
        if not self.nybble_spec.draws:
            return 0
        known = self._nybble_calls_seen.repeat(x)
        if known is None:  # in eval mode a reentrant checkpoint's first forward had the number 0
            return int(self.nybble_calls.item()) if self.training else 0
        return known

    def _learns(self, x: Tensor) -> bool:
        alpha = self.nybble_alpha
        learned = alpha is not None and alpha.requires_grad
        return x.requires_grad or self.weight.requires_grad or learned

    @torch.no_grad()
    def hold_weight_(self, values: Tensor) -> None:
        """Compute with `values` as they are: forwards quantise the weight no more.

        For tests of what becomes of decoded codes; to train again, convert a copy anew. Weights
        that other modules compute (a weight norm) cannot be held.
        """
        if parametrize.is_parametrized(self):
            raise UserError(
                f"{self.nybble_name}: a parametrization computes its weight; remove that first"
            )
        self.weight.copy_(values)
        # The signed form first: it may take its levels from the weight's slot.
        self._nybble_forms = {
            kind: replace(form, output_weight=None) for kind, form in self._nybble_forms.items()
        }
        self.nybble_spec = replace(self.nybble_spec, output_weight=None)

    # ---- GradScale: scaling.py ---------------------------------------------------------------

    def backward_spec(self, spec: LayerSpec) -> LayerSpec:
        """The spec of one backward call: `immediate` moves its scale at the first gradient of an
        iteration only, so a layer that is used twice holds it still at the second."""
        rule = spec.grad_scale
        if rule is None or rule[0].mode != "immediate" or not self._nybble_moved:
            return spec
        return scaling.held(spec)

    def observe_gradient(self, amax: Tensor, scale: Tensor) -> None:
        """Called by backward: keep the scale that was used and note the gradient's maximum."""
        scaling.observe_(self, amax, scale)

    # ---- state ------------------------------------------------------------------------------

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move with the module, but stay float32: a power of two may not fit a half."""
        kept = {name: t for name in self.state_names() if (t := getattr(self, name)) is not None}
        before = {name: tensor.detach().clone() for name, tensor in kept.items()}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in before.items():
            now = getattr(self, name)
            if now.dtype != tensor.dtype:
                restored = tensor.to(now.device)
                if isinstance(now, nn.Parameter):
                    now.data = restored
                else:
                    setattr(self, name, restored)
        return self

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        has_weight = self._has_weight(state_dict, prefix)
        for name in self.state_names():
            key = prefix + name
            if key not in state_dict and has_weight:
                self._reset(name)  # weights of a float model: what was learned about others ends
            if key in missing_keys:
                missing_keys.remove(key)
        # The buffers may have changed: read them at the next forward.
        self._nybble_kind, self._nybble_ready = None, False

    def _has_weight(self, state_dict: dict[str, Any], prefix: str) -> bool:
        """Whether a state_dict holds this layer's weight, also in the parts of a weight norm."""
        parts = prefix + "parametrizations.weight."
        names = [prefix + name for name in ("weight", "weight_v", "weight_orig")]
        return any(name in state_dict for name in names) or any(
            key.startswith(parts) for key in state_dict
        )

    @torch.no_grad()
    def _reset(self, name: str) -> None:
        tensor = getattr(self, name)
        if tensor is not None and not tensor.is_meta:
            tensor.fill_(self._nybble_first_kind if name == "nybble_input_kind" else 0)

    def extra_repr(self) -> str:
        """torch's own text, then the six slots."""
        return f"{super().extra_repr()}, {describe_spec(self._resolved_spec())}"


def describe_spec(spec: LayerSpec) -> str:
    """The six slots in one line: `output=a x b, grad_input=c x b, grad_weight=d x a`."""

    def short(name: str) -> str:
        slot = spec.slot(name)
        return slot.format.name if isinstance(slot, Quantizer) else "fp32"

    return ", ".join(
        f"{gemm}={short(f'{gemm}_{left}')} x {short(f'{gemm}_{right}')}"
        for gemm, left, right in (
            ("output", "input", "weight"),
            ("grad_input", "grad", "weight"),
            ("grad_weight", "grad", "input"),
        )
    )


def _in_transform(x: Tensor) -> bool:
    functorch = torch._C._functorch
    return functorch.is_gradtrackingtensor(x) or functorch.is_batchedtensor(x)
