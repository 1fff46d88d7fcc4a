"""Which modules work on each other's results, found by symbolic tracing (`torch.fx`).

    joined      a BatchNorm whose only user is a ReLU does that ReLU's work
    over conv   a BatchNorm that is the only user of a convolution may write over its output
    over sum    a ReLU that is the only user of a sum may write over it

Tracing is for analysis only: the model runs its own code. Where the whole model cannot be traced,
its children are tried, one by one; what lies inside one that can be traced is found. Modules that
run more than once in a trace, or have hooks, are left as they are.

The trace is one path through the code, and a model may take another one at run time. A joined
BatchNorm therefore marks its output, the ReLU takes the mark off, and a mark that nobody took is an
error in the backward pass (`norm.py`).
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from nybble.nn.memory.base import has_hooks
from nybble.nn.state import QuantizedLayer

_SUMS = (operator.add, torch.add)
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass
class Pairs:
    """What `find_pairs` saw. Keys are modules, by identity."""

    relu_of: dict[nn.Module, nn.Module] = field(default_factory=dict)
    conv_of: dict[nn.Module, nn.Module] = field(default_factory=dict)
    over_sum: set[nn.Module] = field(default_factory=set)
    untraced: list[tuple[str, str]] = field(default_factory=list)


class _Tracer(fx.Tracer):
    """Modules of torch.nn and nybble are leaves, everything else is looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Containers are not leaves."""
        if isinstance(m, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            return False
        return type(m).__module__.startswith(("torch.nn.", "nybble.nn."))


def find_pairs(model: nn.Module) -> Pairs:
    """Trace `model`, or what of it can be traced.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    >>> pairs = find_pairs(net)
    >>> pairs.relu_of[net[1]] is net[2], pairs.conv_of[net[1]] is net[0]
    (True, True)
    """
    seen = Pairs()
    runs: Counter[nn.Module] = Counter()
    sums: dict[nn.Module, bool] = {}
    try:
        twin = _twin(model)
    except Exception as error:  # whatever a user's module raises when it is copied
        return Pairs(untraced=[("", _first_line(error))])
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _visit("", twin, seen, runs, sums)
    torch.set_rng_state(state)
    back = dict(zip(twin.modules(), model.modules(), strict=True))
    once = {module for module, count in runs.items() if count == 1}
    return Pairs(
        {back[n]: back[relu] for n, relu in seen.relu_of.items() if n in once},
        {back[n]: back[conv] for n, conv in seen.conv_of.items() if n in once and conv in once},
        {back[relu] for relu, always in sums.items() if always},
        seen.untraced,
    )


def _twin(model: nn.Module) -> nn.Module:
    """The same modules around the same parameters, in training mode: what `forward` does to its
    module's attributes and buffers while it is traced, it does to this copy."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, memo).train()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _visit(
    name: str,
    module: nn.Module,
    pairs: Pairs,
    runs: Counter[nn.Module],
    sums: dict[nn.Module, bool],
) -> None:
    if not any(isinstance(part, (*_NORMS, nn.ReLU)) for part in module.modules()):
        return
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # whatever a user's forward raises on a symbolic value
        if not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            pairs.untraced.append((name, _first_line(error)))
        for child, part in module.named_children():
            _visit(f"{name}.{child}" if name else child, part, pairs, runs, sums)
        return
    _read(graph, dict(module.named_modules(remove_duplicate=False)), pairs, runs, sums)


def _read(
    graph: fx.Graph,
    modules: dict[str, nn.Module],
    pairs: Pairs,
    runs: Counter[nn.Module],
    sums: dict[nn.Module, bool],
) -> None:
    def called(node: Any) -> nn.Module | None:
        plain = isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1
        return modules[str(node.target)] if plain and not node.kwargs else None

    for node in graph.nodes:
        module = called(node)
        if module is None:
            continue
        runs[module] += 1
        source = node.args[0]
        alone = isinstance(source, fx.Node) and len(source.users) == 1
        if isinstance(module, nn.ReLU):
            fresh = alone and source.op == "call_function" and source.target in _SUMS
            sums[module] = sums.get(module, True) and fresh and "out" not in source.kwargs
        if not isinstance(module, _NORMS) or has_hooks(module):
            continue
        before = called(source)
        if alone and isinstance(before, _CONVS) and not has_hooks(before):
            pairs.conv_of[module] = before
        users = list(node.users)
        after = called(users[0]) if len(users) == 1 else None
        if isinstance(after, nn.ReLU) and not has_hooks(after):
            pairs.relu_of[module] = after


def writes_fresh(module: nn.Module) -> bool:
    """Whether a layer's output is memory that nothing else refers to: not kept for its backward."""
    return isinstance(module, QuantizedLayer) or type(module) in (nn.Conv1d, nn.Conv2d, nn.Linear)
