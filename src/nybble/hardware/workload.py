"""What a machine has to do in one training step: Gemms with the formats of a recipe, and the rest.

    trace (trace.py) + recipe = tasks, in the order in which they run

Every Gemm gets the kinds of operands that the recipe's resolved layer rules give its slots. Before
it stand the tasks that quantise what it needs: an operand is quantised once, its codes are kept for
backward where the recipe reuses them, and both phases of a gradient come out of one pass. Weights
are read as 32-bit masters, everything else in the machine's own width. The optimizer is one task
for each parameter: SGD with momentum 4 operations and one state, AdamW 14 and two.

Gemms of a time loop that do not depend on the step before (input-hidden, and every gradient of a
weight) are one Gemm of the whole sequence, as recurrent layers run them.

Not done here: outliers' own product (wang2025), error feedback, hooks of weights; gradient
accumulation over several batches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Final

import torch

from nybble.convert import convert
from nybble.errors import UserError
from nybble.hardware.kinds import (
    GRAD_INPUT,
    GRAD_WEIGHT,
    OPTIMIZER,
    OUTPUT,
    QUANTISE,
    UNCOVERED,
)
from nybble.hardware.operation import Access, Gemm, Op
from nybble.hardware.quantise import operand_of, work_of
from nybble.hardware.recurrent import merge_time
from nybble.hardware.tasks import FLOAT32, Task, Use, Workload
from nybble.hardware.trace import Step, Trace, trace_step
from nybble.nn.inputs import SIGNED, SKEWED, UNSIGNED
from nybble.nn.registry import quantized_layers
from nybble.ops.spec import LayerSpec, Slot
from nybble.quantizers import Quantizer
from nybble.recipes import Recipe, get_recipe

__all__ = ["layer_specs", "make_tasks", "plan"]

MASTER_BITS: Final = 32
OPTIMIZERS: Final = {"sgd": (4, 1), "adamw": (14, 2)}


def plan(
    build: Callable[[], Step],
    recipe: str | Recipe,
    *,
    name: str = "model",
    batch: int = 1,
    rules: dict[str, str | None] | None = None,
    optimizer: str = "sgd",
    vector_bits: int = 16,
    trace: Trace | None = None,
) -> Workload:
    """The workload of one step of `build`'s model under a recipe.

    Raises:
        UserError: an unknown recipe or optimizer, or a model that cannot be traced.

    >>> from torch import nn
    >>> def build():
    ...     model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 8))
    ...     return model, lambda model: model(torch.zeros(32, 64)).square().mean()
    >>> found = plan(build, "sun2020")
    >>> inner = [task for task in found.tasks if task.layer == "2" and task.gemm]
    >>> [(task.gemm.which, task.left.kind, task.right.kind) for task in inner]
    [('output', 'int4', 'int4'), ('grad_input', 'fp4', 'int4'), ('grad_weight', 'fp4', 'int4')]
    """
    if optimizer not in OPTIMIZERS:
        raise UserError(f"Unknown optimizer '{optimizer}'; choose {' or '.join(OPTIMIZERS)}.")
    chosen = get_recipe(recipe) if isinstance(recipe, str) else recipe
    found = trace if trace is not None else trace_step(build, name)
    specs = layer_specs(build, chosen, rules or {})
    tasks = make_tasks(found, specs, optimizer, vector_bits)
    gemms = [task for task in tasks if task.gemm]
    unknown = {(t.name, t.layer, t.module): None for t in tasks if t.cause == UNCOVERED}
    left_out = {(t.layer, t.module): None for t in gemms if not t.converted}
    return Workload(
        name=name,
        recipe=chosen.name,
        batch=batch,
        tasks=tuple(tasks),
        uncovered=tuple(unknown),
        float_layers=tuple(left_out) if any(t.converted for t in gemms) else (),
        parameters=sum(access.elements for access in found.parameters.values()),
        notes=tuple(_notes(specs)),
    )


def layer_specs(
    build: Callable[[], Step], recipe: Recipe, rules: dict[str, str | None]
) -> dict[str, dict[int, LayerSpec]]:
    """Layer name to its specs by the kind of input (`nybble.nn.inputs`), of the converted model."""
    with torch.device("meta"):
        model, _ = build()
    own = {name: recipe if rule == "recipe" else rule for name, rule in rules.items()}
    convert(model, recipe, own or None)
    return {name: dict(enumerate(_forms(layer))) for name, layer in quantized_layers(model)}


def _forms(layer: object) -> list[LayerSpec]:
    forms = layer._nybble_forms  # type: ignore[attr-defined]
    return [forms[kind] for kind in range(len(forms))]


def _notes(specs: dict[str, dict[int, LayerSpec]]) -> list[str]:
    every = [spec for forms in specs.values() for spec in forms.values()]
    notes = []
    if any(spec.outliers is not None for spec in every):
        notes.append("the separate product of outliers is not counted")
    if any(spec.hook is not None for spec in every):
        notes.append("what the recipe does to weights between steps is not counted")
    return notes


# ---- tasks --------------------------------------------------------------------------------------


def make_tasks(
    trace: Trace,
    specs: dict[str, dict[int, LayerSpec]],
    optimizer: str = "sgd",
    vector_bits: int = 16,
) -> list[Task]:
    """The tasks of a traced step under resolved layer specs."""
    return _Planner(trace, specs, optimizer, vector_bits).run()


class _Planner:
    def __init__(
        self,
        trace: Trace,
        specs: dict[str, dict[int, LayerSpec]],
        optimizer: str,
        vector_bits: int,
    ) -> None:
        self.trace, self.specs, self.bits = trace, specs, vector_bits
        self.optimizer = optimizer
        self.tasks: list[Task] = []
        self.made: set[Hashable] = set()
        self.ops = merge_time(trace.ops)
        self.present = {(op.layer, op.gemm.which) for op in self.ops if op.gemm}
        self.products: dict[str, int] = {}

    def run(self) -> list[Task]:
        for op in self.ops:
            if op.gemm is not None:
                self._gemm(op, op.gemm)
            elif op.cause == OPTIMIZER:
                self._optimizer(op)
            else:
                self.tasks.append(
                    Task(
                        *(op.cause, op.layer, op.module, op.phase, op.name),
                        reads=tuple(self._read(op, a) for a in op.reads),
                        writes=tuple(self._use(a) for a in op.writes),
                        elements=op.elements,
                        operations=float(op.operations * op.elements),
                    )
                )
        return self.tasks

    def _read(self, op: Op, access: Access) -> Use:
        """Every tensor of the full size is read in each pass, statistics and weights once."""
        whole = access.elements == max(a.elements for a in op.reads)
        return replace(self._use(access), passes=op.passes if whole else 1)

    def _use(self, access: Access) -> Use:
        bits = access.bits or (MASTER_BITS if access.parameter else self.bits)
        return Use((access.storage, access.bits == 1), access.elements * bits / 8)

    def _optimizer(self, op: Op) -> None:
        operations, states = OPTIMIZERS[self.optimizer]
        master, gradient = op.reads
        state = [
            Use(("state", place, master.storage), master.elements * MASTER_BITS / 8)
            for place in range(states)
        ]
        self.tasks.append(
            Task(
                *(OPTIMIZER, op.layer, op.module, "step", self.optimizer),
                reads=(self._use(master), self._use(gradient), *state),
                writes=(self._use(master), *state),
                elements=op.elements,
                operations=float(operations * op.elements),
            )
        )

    # ---- Gemms --------------------------------------------------------------------------------

    def _spec(self, op: Op, gemm: Gemm) -> LayerSpec | None:
        forms = self.specs.get(_nybble_name(op.layer, self.specs))
        if forms is None and op.phase == "forward":
            place = self.products.get(op.layer, 0)
            self.products[op.layer] = place + 1
            forms = self.specs.get(f"{op.layer}.{('qk_product', 'pv_product')[place % 2]}")
        elif forms is None:
            forms = self.specs.get(f"{op.layer}.pv_product")
        if forms is None:
            return None
        sign = self.trace.signs.get(gemm.left.storage, "signed")
        if gemm.which == GRAD_WEIGHT:
            sign = self.trace.signs.get(gemm.right.storage, "signed")
        kind = {"positive": UNSIGNED, "skewed": SKEWED}.get(sign, SIGNED)
        return forms[kind]

    def _gemm(self, op: Op, gemm: Gemm) -> None:
        spec = self._spec(op, gemm)
        layer = op.layer
        left, right = gemm.left, gemm.right
        if spec is None:
            uses = (self._use(left), self._use(right))
            kinds = (FLOAT32, FLOAT32)
            repeat = 1
        elif gemm.which == OUTPUT:
            uses = (
                self._codes(op, spec.slot("output_input"), left, "x"),
                self._codes(op, spec.slot("output_weight"), right, "w"),
            )
            kinds = (operand_of(spec.output_input), operand_of(spec.output_weight))
            repeat = 1
        else:
            mine = f"{gemm.which}_grad"
            other = "grad_input_weight" if gemm.which == GRAD_INPUT else "grad_weight_input"
            role = "w" if gemm.which == GRAD_INPUT else "x"
            slot = spec.slot(other)
            forward = "output_weight" if role == "w" else "output_input"
            again = slot != spec.slot(forward)
            uses = (
                self._gradient(op, spec, left, gemm.which),
                self._codes(op, slot, right, role + ("'" if again else "")),
            )
            kinds = (operand_of(spec.slot(mine)), operand_of(slot))
            repeat = spec.samples if gemm.which == GRAD_WEIGHT else 1
            repeat *= 2 if spec.gradient_pair == "mean" else 1
        self.tasks.append(
            Task(
                *(gemm.which, layer, op.module, op.phase, op.name),
                reads=uses,
                writes=(self._use(gemm.result),),
                elements=gemm.result.elements,
                gemm=gemm,
                left=kinds[0],
                right=kinds[1],
                repeat=repeat,
                converted=spec is not None,
            )
        )
        if spec is not None and spec.control_variate and gemm.which == GRAD_WEIGHT:
            self._vector(op, "control variate", (), (self._use(gemm.result),), gemm.m * gemm.n, 2)

    def _codes(self, op: Op, slot: Slot, source: Access, role: str) -> Use:
        """The codes of an operand, quantised now if they have not been."""
        if slot is None or self._as_it_is(slot, source):
            return self._use(source)
        key = ("codes", op.layer, role, source.storage)
        codes = Use(key, source.elements * slot.format.bits / 8)
        if key not in self.made:
            self.made.add(key)
            self._quantise(op, (slot,), source, (codes,))
        return codes

    def _gradient(self, op: Op, spec: LayerSpec, source: Access, which: str) -> Use:
        """The codes of the gradient for one backward Gemm; both come out of one pass."""
        slot = spec.slot(f"{which}_grad")
        if slot is None or self._as_it_is(slot, source):
            return self._use(source)
        key = ("codes", op.layer, which, source.storage)
        codes = Use(key, source.elements * slot.format.bits / 8)
        if key in self.made:
            return codes
        slots, written = [slot], [codes]
        self.made.add(key)
        other = GRAD_WEIGHT if which == GRAD_INPUT else GRAD_INPUT
        twin = spec.slot(f"{other}_grad")
        if twin is not None and (op.layer, other) in self.present:
            second = ("codes", op.layer, other, source.storage)
            if second not in self.made:
                self.made.add(second)
                if not self._as_it_is(twin, source):
                    slots.append(twin)
                    written.append(Use(second, source.elements * twin.format.bits / 8))
        self._quantise(op, tuple(slots), source, tuple(written))
        return codes

    def _as_it_is(self, slot: Quantizer, source: Access) -> bool:
        """Whether the tensor has the width of the slot already."""
        return operand_of(slot).kind == "fp16" and self.bits == 16 and not source.parameter

    def _quantise(
        self, op: Op, slots: tuple[Quantizer, ...], source: Access, codes: tuple[Use, ...]
    ) -> None:
        works = [work_of(slot) for slot in slots]
        # The second phase of a gradient shares the statistic and the product with the scale.
        operations = works[0].operations + sum(max(1, w.operations - 3) for w in works[1:])
        passes = 2 if any(work.own_pass for work in works) else 1
        use = replace(self._use(source), passes=passes)
        self._vector(
            op, " + ".join(s.short for s in slots), (use,), codes, source.elements, operations,
            converted=True,
        )  # fmt: skip

    def _vector(
        self,
        op: Op,
        name: str,
        reads: tuple[Use, ...],
        writes: tuple[Use, ...],
        elements: int,
        operations: int,
        converted: bool = False,
    ) -> None:
        self.tasks.append(
            Task(
                *(QUANTISE, op.layer, op.module, op.phase, name),
                reads=reads,
                writes=writes,
                elements=elements,
                operations=float(elements * operations),
                converted=converted,
            )
        )


def _nybble_name(layer: str, specs: dict[str, dict[int, LayerSpec]]) -> str:
    """What a converted model calls a layer that the trace named after its parameter.

    >>> _nybble_name("lstm.weight_hh_l0", {"lstm.hh_l0": {}})
    'lstm.hh_l0'
    >>> _nybble_name("attn.in_proj_weight", {"attn.in_proj": {}})
    'attn.in_proj'
    """
    if layer in specs:
        return layer
    owner, _, leaf = layer.rpartition(".")
    for name in (leaf.removeprefix("weight_"), leaf.removesuffix("_weight")):
        full = f"{owner}.{name}" if owner else name
        if full in specs:
            return full
    return layer
