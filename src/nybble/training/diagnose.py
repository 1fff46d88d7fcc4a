"""Where did the first non-finite value arise? Repeat one step and watch every layer.

Forward: the hooks of the modules run in the order of computation, inner modules before the ones
that contain them, so the first output that holds a NaN or an infinity names the place. Backward:
hooks on the input of every layer and on every parameter's gradient, which run from the loss
backwards; the first that is not finite names the layer whose backward made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every floating-point tensor in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from tensors_in(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from tensors_in(entry)


def is_finite(value: Any) -> bool:
    """Whether every floating-point tensor in `value` is finite everywhere."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors_in(value))


def gradients_finite(model: nn.Module) -> bool:
    """Whether every gradient is finite: one pass for the sum, an exact look only if it is not."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        return True
    if bool(torch.isfinite(nn.utils.get_total_norm(gradients))):
        return True
    return is_finite(gradients)  # the norm of finite gradients may overflow


def locate(model: nn.Module, repeat: Callable[[], Tensor], inputs: Any) -> str:
    """Say where `repeat` (forward, returns the loss to differentiate) first is not finite.

    The model must be in the state before the step. It is left with the gradients of the repetition.
    """
    for name, parameter in model.named_parameters():
        if not is_finite(parameter):
            return f"in the weights: parameter '{name}' was not finite before this step"
    if not is_finite(inputs):
        return "in the input: the batch itself is not finite"
    events: list[str] = []
    with _watching(model, events):
        model.zero_grad(set_to_none=True)
        loss = repeat()
        if events:
            return events[0]
        if not is_finite(loss):
            return "in the loss: the output of the model is finite, its loss is not"
        loss.backward()
    return events[0] if events else "nowhere: the repetition of the step was finite"


def locate_forward(model: nn.Module, run: Callable[[], Any]) -> str:
    """Say where `run`, a forward pass of `model`, first is not finite."""
    events: list[str] = []
    with _watching(model, events), torch.no_grad():
        run()
    return events[0] if events else "in the loss: the output of the model is finite"


@contextmanager
def _watching(model: nn.Module, events: list[str]) -> Iterator[None]:
    handles: list[Any] = []

    def after_forward(name: str, kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if not events and not is_finite(output):
                events.append(f"in the forward pass: the output of {name} ({kind})")

        return hook

    def before_forward(name: str, kind: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any) -> None:
            for tensor in tensors_in(arguments):
                if tensor.requires_grad:
                    text = f"in the backward pass: the gradient that {name} ({kind}) gave its input"
                    handles.append(tensor.register_hook(after_gradient(text)))

        return hook

    def after_gradient(text: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not events and not is_finite(gradient):
                events.append(text)

        return hook

    def after_accumulate(name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            if not events and not is_finite(parameter.grad):
                events.append(f"in the backward pass: the gradient of parameter '{name}'")

        return hook

    for name, module in model.named_modules():
        shown, kind = f"layer '{name}'" if name else "the whole model", type(module).__name__
        handles.append(module.register_forward_hook(after_forward(shown, kind)))
        if not any(True for _ in module.children()) or any(
            True for _ in module.parameters(recurse=False)
        ):
            handles.append(module.register_forward_pre_hook(before_forward(shown, kind)))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_post_accumulate_grad_hook(after_accumulate(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
