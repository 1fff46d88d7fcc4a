"""One training step of a model as a list of what it does, on tensors without memory.

    trace_step(build) = forward, loss and backward under a dispatch mode, on the `meta` device

Every operator that reaches torch's kernels is seen with its shapes, so nothing is deduced from the
kind of a layer. Views cost nothing. An operator's layer is the module that ran in forward; in
backward the one whose forward made the autograd node that now runs (both have one sequence number).
A Gemm's second operand decides its layer where it is a parameter: that is how the Gemms of
`nn.MultiheadAttention` and `nn.LSTM` get names of their own.

Which product a Gemm is, and its shape: gemms.py.

Not done here: models whose control flow looks at values, which `meta` tensors do not have;
operators without a shape function. Both end in one clear line. Attention's fused kernels are
replaced by their products (`SDPBackend.MATH`), in which every Gemm can be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nybble.errors import UserError
from nybble.hardware.gemms import Forward, convolution, factors, product, role_in_backward
from nybble.hardware.kinds import (
    ADD,
    GEMM_OPERATORS,
    GRAD_INPUT,
    GRAD_WEIGHT,
    OPTIMIZER,
    OUTPUT,
    VIEWS,
    kind_of,
)
from nybble.hardware.operation import Access, Gemm, Op
from nybble.hardware.storages import Storages

__all__ = ["Step", "Trace", "trace_step"]


@dataclass
class Trace:
    """The step. `modules`: layer to class; `parameters`: elements of every parameter by name;
    `signs`: of a storage that a step of the forward pass wrote, "positive" (behind a ReLU, a
    softmax), "skewed" (behind GELU or SiLU) or "signed"."""

    ops: list[Op]
    modules: dict[str, str]
    parameters: dict[str, Access]
    signs: dict[int, str]
    kept: list[Any] = field(default_factory=list, repr=False)  # storages, so that no address recurs


# Their backward looks only at the side of a threshold: one bit is kept, not the tensor.
_MASKS = frozenset(("relu", "hardtanh", "clamp", "clamp_min"))
_MASKED = frozenset(("threshold_backward", "hardtanh_backward"))
# torch keeps a place in the image as 64 bits; a machine needs the place in the window.
_PLACES = frozenset(("max_pool2d_with_indices", "max_pool2d_with_indices_backward"))
_PLACE_BITS = 4
_POSITIVE = frozenset(
    ("relu", "hardtanh", "sigmoid", "_softmax", "_safe_softmax", "hardsigmoid", "exp", "abs")
)
_SKEWED = frozenset(("gelu", "silu", "mish", "hardswish", "elu", "leaky_relu"))
_POOLS = ("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "mean")
_KEEPS = frozenset((*_POOLS, "clone", "copy", "native_dropout", "cat", "stack", "contiguous"))

Step = tuple[nn.Module, Callable[[nn.Module], Tensor]]


def trace_step(build: Callable[[], Step], name: str = "the model") -> Trace:
    """Trace one step of what `build` returns on the `meta` device: (model, a function of the model
    that returns the loss).

    Raises:
        UserError: the model looks at values, or uses an operator that has no shape function.

    >>> def build():
    ...     model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    ...     return model, lambda model: model(torch.zeros(32, 8)).square().mean()
    >>> [f"{op.layer} {op.gemm.which}" for op in trace_step(build).ops if op.gemm]
    ['0 output', '2 output', '2 grad_input', '2 grad_weight', '0 grad_weight']
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    recorder: _Recorder | None = None
    try:
        with torch.device("meta"):
            model, loss_of = build()
            model.train()
            recorder = _Recorder(model)
            with sdpa_kernel(SDPBackend.MATH), recorder.watching(), recorder, torch.enable_grad():
                loss = loss_of(model)
                if not loss.requires_grad:
                    raise UserError(
                        f"{name}: nothing in it learns, so a step has no backward pass."
                    )
                recorder.phase = "backward"
                loss.backward()
    except UserError:
        raise
    except Exception as error:  # whatever a model's own forward may raise
        where = recorder.where() if recorder is not None else ""
        first = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0][:200]
        raise UserError(
            f"{name} cannot be followed on tensors without values{where}: {first}. Apart from a "
            "mistake of its own: its forward must not look at what tensors hold, and every "
            "operator needs a shape function (torch.library.register_fake)."
        ) from error
    recorder.finish()
    storages = recorder.storages
    return Trace(recorder.ops, recorder.modules, storages.parameters, recorder.signs, storages.kept)


class _Recorder(TorchDispatchMode):
    """Collects `ops`; see the module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.phase = "forward"
        self.ops: list[Op] = []
        self.storages = Storages(model)
        self.stack: list[str] = [""]
        self.modules = {n: type(m).__name__ for n, m in model.named_modules()}
        self.signs: dict[int, str] = {}
        self._layers: dict[int, str] = {}  # sequence number -> the module that ran
        self._forwards: dict[int, Forward] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the stack of modules that run."""
        handles = []
        for name, module in self.model.named_modules():

            def enter(_: nn.Module, inputs: Any, name: str = name) -> None:
                self.stack.append(name)

            def leave(_: nn.Module, inputs: Any, output: Any) -> None:
                self.stack.pop()

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def where(self) -> str:
        """Where an error happened, in words."""
        layer = self.stack[-1] if self.phase == "forward" else ""
        if not layer:
            return f" ({self.phase})"
        return f" (layer {layer}, {self.modules.get(layer, '')})"

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if name in VIEWS:
            return result
        node: Any = torch._C._current_autograd_node()
        if node is None:
            sequence = torch._C._autograd._get_sequence_nr() - 1
            layer = self.stack[-1]
            self._layers.setdefault(sequence, layer)
        else:
            sequence = node._sequence_nr()
            layer = self._layers.get(sequence, "")
        if name in GEMM_OPERATORS:
            self._gemms(name, layer, sequence, node is not None, args, result)
        else:
            self._plain(name, layer, args, kwargs or {}, result)
        return result

    def finish(self) -> None:
        """Add the optimizer's place: one operation a parameter that has a gradient."""
        for name, access in self.storages.parameters.items():
            owner, _, _ = name.rpartition(".")
            parameter = self.model.get_parameter(name)
            if parameter.grad is None:
                continue
            gradient = self.storages.access(parameter.grad)
            self.ops.append(
                Op(
                    *("step", owner, "step", OPTIMIZER, access.elements, 0, 1),
                    reads=(access, gradient),
                    writes=(access,),
                    module=self.modules.get(owner, ""),
                )
            )

    # ---- one operator -------------------------------------------------------------------------

    def _plain(
        self, name: str, layer: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        kind = kind_of(name)
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        written = [self.storages.access(x) for x in _tensors((result,))]
        if not written:
            return
        if name in ("embedding", "index_select", "gather", "index"):
            tensors = tensors[1:]  # of the table only what is looked up is read, as much as written
            tensors += _tensors((result,))[:1]
        elif name in ("slice_backward", "select_backward", "copy_", "fill_", "zero_"):
            tensors = tensors[-1:] if name == "copy_" else tensors[:1]
        if kind.inputs is not None:
            tensors = tensors[: kind.inputs]
        reads = tuple(_unique([self.storages.access(x) for x in tensors]))
        if name in _MASKED and len(reads) > 1:  # all it needs of its input is a bit an element
            reads = (reads[0], replace(reads[1], bits=1), *reads[2:])
        if name in _PLACES:
            short = [replace(a, bits=_PLACE_BITS) if a.bits else a for a in (*reads, *written)]
            reads, written = tuple(short[: len(reads)]), short[len(reads) :]
            if name.endswith("backward"):  # the input itself only gave its shape
                reads = (reads[0], *(a for a in reads if a.bits))
        if name.rstrip("_") in _MASKS:
            written = [written[0], replace(written[0], bits=1), *written[1:]]
        elements = max((a.elements for a in (*reads, *written)), default=0)
        if elements <= 1:  # counters and numbers
            return
        if self.phase == "forward":
            self._note_signs(name, reads, written)
        self.ops.append(
            Op(
                *(name, layer, self.phase, kind.cause, elements, kind.operations, kind.passes),
                reads=reads,
                writes=tuple(written),
                module=self.modules.get(layer, ""),
            )
        )

    def _note_signs(self, name: str, reads: tuple[Access, ...], written: list[Access]) -> None:
        bare = name.rstrip("_")
        found = "signed"
        if bare in _POSITIVE:
            found = "positive"
        elif bare in _SKEWED:
            found = "skewed"
        elif bare in _KEEPS and reads:
            found = self.signs.get(reads[0].storage, "signed")
        for access in written:
            self.signs[access.storage] = found

    def _gemms(
        self,
        name: str,
        layer: str,
        sequence: int,
        backward: bool,
        args: tuple[Any, ...],
        result: Any,
    ) -> None:
        if name == "convolution":
            x, w = args[0], args[1]
            owner = self._begin(sequence, layer, x, w)
            self._add(
                name, owner, convolution(OUTPUT, (x, w, result), x, w, result, args, self.storages)
            )
        elif name == "convolution_backward":
            self._convolution_backward(layer, args, result)
        else:
            self._matmul(name, layer, sequence, backward, factors(name, args), result)

    def _matmul(
        self,
        name: str,
        layer: str,
        sequence: int,
        backward: bool,
        pair: tuple[Tensor, Tensor],
        result: Tensor,
    ) -> None:
        a, b = pair
        storages = self.storages
        if not backward:
            left, right = a, b
            if storages.is_parameter(a) and not storages.is_parameter(b):
                left, right = b, a
            owner = self._begin(sequence, layer, left, right)
            which = OUTPUT
        else:
            known = self._forwards.get(sequence)
            owner = known.layer if known else storages.owner(b, layer)
            which, left, _ = role_in_backward(known, a, b, result, storages)
        self._add(name, owner, product(which, a, b, result, left, storages))

    def _convolution_backward(self, layer: str, args: tuple[Any, ...], result: Any) -> None:
        name = "convolution_backward"
        g, x, w = args[0], args[1], args[2]
        owner = self.storages.owner(w, layer)
        grad_input, grad_weight, grad_bias = result
        forward = (x, w, None, *args[4:])  # as the forward operator was called
        for which, other, made in ((GRAD_INPUT, w, grad_input), (GRAD_WEIGHT, x, grad_weight)):
            if made is not None:
                gemm = convolution(which, (g, other, made), x, w, g, forward, self.storages)
                self._add(name, owner, gemm)
        if grad_bias is not None:
            read, written = self.storages.access(g), self.storages.access(grad_bias)
            self.ops.append(
                Op(
                    *("sum", owner, self.phase, ADD, read.elements, 1, 1),
                    reads=(read,),
                    writes=(written,),
                    module=self.modules.get(owner, ""),
                )
            )

    def _add(self, name: str, layer: str, gemm: Gemm) -> None:
        self.ops.append(
            Op(
                *(name, layer, self.phase, gemm.which, gemm.result.elements, 0, 1),
                reads=(gemm.left, gemm.right),
                writes=(gemm.result,),
                gemm=gemm,
                module=self.modules.get(layer, ""),
            )
        )

    def _begin(self, sequence: int, layer: str, left: Tensor, right: Tensor) -> str:
        """Note a forward Gemm for its backward, and name its layer."""
        owner = self.storages.owner(right, layer)
        keys = (self.storages.key(left), self.storages.key(right))
        self._forwards[sequence] = Forward(owner, *keys, tuple(right.shape))
        return owner


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _unique(accesses: list[Access]) -> list[Access]:
    """One access for each storage: the largest."""
    best: dict[int, Access] = {}
    for access in accesses:
        if access.storage not in best or best[access.storage].elements < access.elements:
            best[access.storage] = access
    return list(best.values())
