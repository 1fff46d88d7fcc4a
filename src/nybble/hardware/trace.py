"""One training step of a model as a list of what it does, on tensors without memory.

    trace_step(build) = forward, loss and backward under a dispatch mode, on the `meta` device

Every operator that reaches torch's kernels is seen with its shapes, so nothing is deduced from the
kind of a layer. Views cost nothing. An operator's layer is the module that ran in forward; in
backward the one whose forward made the autograd node that now runs (both have one sequence number).
A Gemm's second operand decides its layer where it is a parameter: that is how the Gemms of
`nn.MultiheadAttention` and `nn.LSTM` get names of their own.

Which product a Gemm of the backward pass is follows from its operands: that of the forward Gemm of
the same autograd node that it shares memory with. Where copies hide that, the shape of the result
decides: that of the second operand makes it grad_weight.

    output       [M, K] x [K, N]      activation x weight
    grad_input   [M, N] x [N, K]      gradient x weight
    grad_weight  [N, M] x [M, K]      gradient x activation

A convolution is the Gemm of its output pixels: M = batch x output pixels, K = input channels x
taps, with every input element held once, not once a tap.

Not done here: models whose control flow looks at values, which `meta` tensors do not have;
operators without a shape function. Both end in one clear line. Attention's fused kernels are
replaced by their products (`SDPBackend.MATH`), in which every Gemm can be seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nybble.errors import UserError
from nybble.hardware.kinds import (
    GEMM_OPERATORS,
    GRAD_INPUT,
    GRAD_WEIGHT,
    OPTIMIZER,
    OUTPUT,
    VIEWS,
    kind_of,
)

__all__ = ["Access", "Gemm", "Op", "Trace", "trace_step"]


@dataclass(frozen=True)
class Access:
    """A tensor that is read or written: which storage, how many elements of it, and whether they
    are numbers (whose width the machine chooses) or indices and masks of `bits` bits."""

    storage: int
    elements: int
    bits: int | None = None
    parameter: str = ""


@dataclass(frozen=True)
class Gemm:
    """`count` products [m, k] x [k, n] of one shape.

    taps: of a convolution; a factor of the dimension `tapped` ("k" or "n"). left, right, result are
    the operands and the result with the elements that really exist. image: pixels of one
    example's input, of a convolution.
    """

    which: str
    count: int
    m: int
    n: int
    k: int
    left: Access
    right: Access
    result: Access
    taps: int = 1
    tapped: str = "k"
    kernel: str = "matmul"
    stride: int = 1
    image: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.count * self.m * self.n * self.k


@dataclass(frozen=True)
class Op:
    """One operator: its layer, where in the step, and what it touches."""

    name: str
    layer: str
    phase: str
    cause: str
    elements: int
    operations: int
    passes: int
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]
    gemm: Gemm | None = None
    module: str = ""


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
    return Trace(recorder.ops, recorder.modules, recorder.parameters, recorder.signs, recorder.kept)


@dataclass
class _Forward:
    """What is known of a forward Gemm when its backward runs."""

    layer: str
    left: int
    right: int
    right_shape: tuple[int, ...]


class _Recorder(TorchDispatchMode):
    """Collects `ops`; see the module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.phase = "forward"
        self.ops: list[Op] = []
        self.kept: list[Any] = []
        self.stack: list[str] = [""]
        self.modules = {n: type(m).__name__ for n, m in model.named_modules()}
        self.parameters: dict[str, Access] = {}
        self._numbers: dict[int, int] = {}
        self._tied: dict[int, set[str]] = {}  # every name of a storage: tied weights have several
        self._of_storage: dict[int, str] = {}
        for parameter_name, p in model.named_parameters():
            access = self._access(p)
            self.parameters[parameter_name] = Access(
                access.storage, access.elements, access.bits, parameter_name
            )
            self._of_storage[access.storage] = parameter_name
        for parameter_name, p in model.named_parameters(remove_duplicate=False):
            self._tied.setdefault(self._key(p), set()).add(parameter_name)
        self.signs: dict[int, str] = {}
        self._layers: dict[int, str] = {}  # sequence number -> the module that ran
        self._forwards: dict[int, _Forward] = {}

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
        for name, access in self.parameters.items():
            owner, _, _ = name.rpartition(".")
            parameter = self.model.get_parameter(name)
            if parameter.grad is None:
                continue
            gradient = self._access(parameter.grad)
            self.ops.append(
                Op(
                    *("step", owner, "step", OPTIMIZER, access.elements, 0, 1),
                    reads=(access, gradient),
                    writes=(access,),
                    module=self.modules.get(owner, ""),
                )
            )

    # ---- one operator -------------------------------------------------------------------------

    def _key(self, x: Tensor) -> int:
        """A number for a tensor's storage, the same at every run."""
        return self._numbers.setdefault(x.untyped_storage()._cdata, len(self._numbers))

    def _access(self, x: Tensor) -> Access:
        storage = x.untyped_storage()
        self.kept.append(storage)
        held = storage.nbytes() // max(1, x.element_size())
        floating = x.dtype.is_floating_point
        bits = None if floating else 8 * x.element_size()
        key = self._key(x)
        return Access(key, min(x.numel(), held), bits, self._of_storage.get(key, ""))

    def _plain(
        self, name: str, layer: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        kind = kind_of(name)
        tensors = [*_tensors(args), *_tensors(kwargs.values())]
        written = [self._access(x) for x in _tensors((result,))]
        if not written:
            return
        if name in ("embedding", "index_select", "gather", "index"):
            tensors = tensors[1:]  # of the table only what is looked up is read, as much as written
            tensors += _tensors((result,))[:1]
        elif name in ("slice_backward", "select_backward", "copy_", "fill_", "zero_"):
            tensors = tensors[-1:] if name == "copy_" else tensors[:1]
        if kind.inputs is not None:
            tensors = tensors[: kind.inputs]
        reads = tuple(_unique([self._access(x) for x in tensors]))
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
            owner = self._owner(w, layer)
            self._forwards[sequence] = self._forward_of(owner, x, w)
            self._add(name, owner, self._convolution(OUTPUT, x, w, result, args))
            return
        if name == "convolution_backward":
            g, x, w = args[0], args[1], args[2]
            owner = self._owner(w, layer)
            grad_input, grad_weight, grad_bias = result
            rest = (x, w, None, *args[4:])
            if grad_input is not None:
                self._add(name, owner, self._convolution(GRAD_INPUT, g, w, grad_input, rest, x, g))
            if grad_weight is not None:
                self._add(
                    name, owner, self._convolution(GRAD_WEIGHT, g, x, grad_weight, rest, x, g)
                )
            if grad_bias is not None:
                reads = (self._access(g),)
                self.ops.append(
                    Op("sum", owner, self.phase, "additions", reads[0].elements, 1, 1, reads,
                       (self._access(grad_bias),), module=self.modules.get(owner, ""))
                )  # fmt: skip
            return
        a, b = args[1:3] if name in ("addmm", "baddbmm", "addmv") else args[:2]
        if not backward:
            if self._is_parameter(a) and not self._is_parameter(b):
                a, b = b, a
            owner = self._owner(b, layer)
            self._forwards[sequence] = self._forward_of(owner, a, b)
            self._add(name, owner, self._product(OUTPUT, args, name, result, a, b))
            return
        known = self._forwards.get(sequence)
        owner = known.layer if known else self._owner(b, layer)
        which, left, right = self._which(known, a, b, result)
        self._add(name, owner, self._product(which, args, name, result, left, right))

    def _which(
        self, known: _Forward | None, a: Tensor, b: Tensor, result: Tensor
    ) -> tuple[str, Tensor, Tensor]:
        """(product, gradient, the other operand) of a Gemm in the backward pass."""
        if known is not None:
            for gradient, other in ((a, b), (b, a)):
                key = self._key(other)
                if key == known.right and key != known.left:
                    return GRAD_INPUT, gradient, other
                if key == known.left and key != known.right:
                    return GRAD_WEIGHT, gradient, other
            if sorted(result.shape) == sorted(known.right_shape):
                return GRAD_WEIGHT, b, a
        return GRAD_INPUT, a, b

    def _product(
        self, which: str, args: tuple[Any, ...], name: str, result: Tensor, a: Tensor, b: Tensor
    ) -> Gemm:
        first, second = args[1:3] if name in ("addmm", "baddbmm", "addmv") else args[:2]
        count = prod(first.shape[:-2]) if first.dim() > 2 else 1
        m, k = first.shape[-2:]
        n = second.shape[-1] if second.dim() > 1 else 1
        if first is not a:  # the transposed product, so that the first operand is the first again
            m, n = n, m
        return Gemm(
            *(which, count, m, n, k), self._access(a), self._access(b), self._access(result)
        )

    def _convolution(
        self,
        which: str,
        a: Tensor,
        b: Tensor,
        result: Tensor,
        args: tuple[Any, ...],
        x: Tensor | None = None,
        g: Tensor | None = None,
    ) -> Gemm:
        x = args[0] if x is None else x
        w, transposed, groups = args[1], bool(args[6]), int(args[8])
        output = result if which == OUTPUT else g
        if transposed:  # the convolution whose gradient this is
            x, output = output, x
        assert isinstance(x, Tensor) and isinstance(output, Tensor)
        taps = prod(w.shape[2:])
        outs, ins = w.shape[0] // groups, w.shape[1]
        pixels = output.shape[0] * prod(output.shape[2:])
        role = {OUTPUT: GRAD_INPUT, GRAD_INPUT: OUTPUT}.get(which, which) if transposed else which
        if role == OUTPUT:
            m, n, k, tapped = pixels, outs, ins * taps, "k"
        elif role == GRAD_INPUT:
            m, n, k, tapped = pixels, ins, outs * taps, "k"
        else:
            m, n, k, tapped = outs, ins * taps, pixels, "n"
        kernel = "conv"
        if groups > 1 and ins == 1:
            kernel = "depthwise"
        elif taps == 1:
            kernel = "conv1x1"
        return Gemm(
            *(which, groups, m, n, k, self._access(a), self._access(b), self._access(result)),
            taps=taps,
            tapped=tapped,
            kernel=kernel,
            stride=max(args[3]) if args[3] else 1,
            image=prod(x.shape[2:]),
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

    def _forward_of(self, layer: str, a: Tensor, b: Tensor) -> _Forward:
        keys = [self._key(x) for x in (a, b)]
        return _Forward(layer, keys[0], keys[1], tuple(b.shape))

    def _is_parameter(self, x: Tensor) -> bool:
        return self._key(x) in self._of_storage

    def _owner(self, operand: Tensor, layer: str) -> str:
        """The layer of a Gemm: where its second operand is the parameter `p` of the module that
        runs, the module's name; of a module with several, the parameter's own name."""
        key = self._key(operand)
        name = self._of_storage.get(key)
        if name is None or f"{layer}.weight" in self._tied[key]:
            return layer
        owner, _, leaf = name.rpartition(".")
        return owner if leaf == "weight" else f"{owner}.{leaf}" if owner else leaf


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
