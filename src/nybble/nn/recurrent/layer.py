"""`nn.RNN`, `nn.LSTM`, `nn.GRU` and their cells with their Gemms in few bits.

What torch's layers do they do: layers, directions, projections, packed sequences, dropout between
layers, batch_first, unbatched input, given states, and gradients through all of them. The class is
changed in place; parameters and their names stay. torch's fused kernels and flat weights are not
used. A layer's Gemms are children (`gemm.py`), which hold the quantisation state.

One direction of a layer is one input-hidden Gemm and one time loop, two nodes of the autograd
graph. LSTM, RNN: both biases are added to the input-hidden result, as fl(b_ih + b_hh).

Not done here: torch.jit, torch.compile without graph breaks, DataParallel replicas.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from nybble.nn.eager import eager
from nybble.nn.recurrent.gemm import RecurrentGemm
from nybble.ops.recurrent import Mode

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Recurrent",
    "attach_gemm",
    "gemm_names",
    "recurrent_class",
    "top_names",
]

_MODES: dict[str, Mode] = {"RNN_TANH": "tanh", "RNN_RELU": "relu", "LSTM": "lstm", "GRU": "gru"}


class Recurrent(nn.Module):
    """Mixin of the converted recurrent layers; the first base of their classes."""

    def _direction(
        self,
        suffix: str,
        mode: Mode,
        rows: Tensor,
        h0: Tensor,
        c0: Tensor | None,
        sizes: tuple[int, ...],
        reverse: bool = False,
    ) -> tuple[Tensor, ...]:
        """y [rows, P], h_n and, of an LSTM, c_n, all float32, of float32 arguments."""
        b_ih = getattr(self, f"bias_ih{suffix}", None)
        b_hh = getattr(self, f"bias_hh{suffix}", None)
        if b_ih is not None and mode != "gru":
            b_ih, b_hh = b_ih.float() + b_hh.float(), None  # type: ignore[union-attr]
        gx = getattr(self, f"ih{suffix}")(rows, None if b_ih is None else b_ih.float()).float()
        found: tuple[Tensor, ...] = getattr(self, f"hh{suffix}")(
            gx,
            h0.float().contiguous(),
            None if c0 is None else c0.float().contiguous(),
            None if b_hh is None else b_hh.float(),
            getattr(self, f"hr{suffix}", None),
            mode,
            sizes,
            reverse,
        )
        return found

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        for child in self.children():
            if isinstance(child, RecurrentGemm):
                child.start_afresh_(state_dict, prefix)


class _Stack(Recurrent):
    """Layers and directions: what RNN, LSTM and GRU share."""

    @eager
    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's own: (output, h_n), or (output, (h_n, c_n)) of an LSTM."""
        net = cast(nn.RNNBase, self)
        lstm = net.mode == "LSTM"
        packed = isinstance(input, PackedSequence)
        batch_dim = 0 if net.batch_first else 1
        sizes_tensor: Tensor | None = None
        order: Tensor | None = None
        back: Tensor | None = None
        batched = True
        if isinstance(input, PackedSequence):
            x, sizes_tensor, order, back = input
            batch = int(sizes_tensor[0])
        else:
            x = input
            if x.dim() not in (2, 3):
                raise ValueError(
                    f"{net.mode.split('_')[0]}: Expected input to be 2D or 3D, got {x.dim()}D"
                    " instead"
                )
            batched = x.dim() == 3
            if not batched:
                x = x.unsqueeze(batch_dim)
                hx = _unbatched(hx)
            batch = x.size(batch_dim)
        if hx is None:
            hx = self._zero_states(x, batch)
        elif order is not None:
            hx = net.permute_hidden(hx, order)
        if batched and any(state.dim() != 3 for state in (hx if lstm else (hx,))):
            raise RuntimeError("For batched 3-D input, hx and cx should also be 3-D")
        net.check_forward_args(x, hx, sizes_tensor)
        if sizes_tensor is not None:
            sizes, rows = tuple(sizes_tensor.tolist()), x
        else:
            x = x.transpose(0, 1) if net.batch_first else x
            sizes, rows = (batch,) * x.shape[0], x.reshape(-1, x.shape[2])
        if not sizes:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        out, states = self._layers(rows, hx if lstm else (hx,), sizes)
        hidden: Any = states if lstm else states[0]
        if packed:
            return PackedSequence(out, sizes_tensor, order, back), net.permute_hidden(hidden, back)
        out = out.view(len(sizes), batch, out.shape[1])
        out = out.transpose(0, 1) if net.batch_first else out
        if not batched:
            out = out.squeeze(batch_dim)
            hidden = tuple(s.squeeze(1) for s in states) if lstm else hidden.squeeze(1)
        return out, hidden

    def _zero_states(self, x: Tensor, batch: int) -> Any:
        net = cast(nn.RNNBase, self)
        many = net.num_layers * (2 if net.bidirectional else 1)
        h = x.new_zeros(many, batch, net.proj_size or net.hidden_size)
        if net.mode != "LSTM":
            return h
        return h, x.new_zeros(many, batch, net.hidden_size)

    def _layers(
        self, rows: Tensor, states: tuple[Tensor, ...], sizes: tuple[int, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        net = cast(nn.RNNBase, self)
        directions = ("", "_reverse") if net.bidirectional else ("",)
        dtype = _result_dtype(rows, getattr(self, "weight_hh_l0"))  # noqa: B009
        out = rows
        finals: list[tuple[Tensor, ...]] = []
        with _no_autocast(rows):
            for layer in range(net.num_layers):
                outputs = []
                for direction, suffix in enumerate(directions):
                    at = layer * len(directions) + direction
                    h0, c0 = states[0][at], states[1][at] if len(states) > 1 else None
                    y, *last = self._direction(
                        f"_l{layer}{suffix}",
                        _MODES[net.mode],
                        out.float(),
                        h0,
                        c0,
                        sizes,
                        direction == 1,
                    )
                    outputs.append(y)
                    finals.append(tuple(last))
                out = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
                if net.dropout and self.training and layer + 1 < net.num_layers:
                    out = F.dropout(out, net.dropout, True)
        stacked = tuple(torch.stack(parts).to(dtype) for parts in zip(*finals, strict=True))
        return out.to(dtype), stacked


class RNN(_Stack, nn.RNN):
    """A converted `torch.nn.RNN`, tanh or relu."""


class LSTM(_Stack, nn.LSTM):
    """A converted `torch.nn.LSTM`."""


class GRU(_Stack, nn.GRU):
    """A converted `torch.nn.GRU`."""


class _Cell(Recurrent):
    """One step: what the cells share."""

    def _step(self, x: Tensor, states: tuple[Tensor, ...] | None, mode: Mode) -> tuple[Tensor, ...]:
        net = cast(nn.RNNCell, self)
        name = type(self).__name__
        if x.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {x.dim()}D instead")
        if states is not None and any(state.dim() != x.dim() for state in states):
            shapes = ", ".join(f"{state.dim()}D" for state in states)
            raise ValueError(
                f"{name}: Expected hidden to be {x.dim()}D like the input, got {shapes}"
            )
        batched = x.dim() == 2
        rows = x if batched else x.unsqueeze(0)
        if states is None:
            zeros = rows.new_zeros(rows.shape[0], net.hidden_size)
            states = (zeros, zeros) if mode == "lstm" else (zeros,)
        elif not batched:
            states = tuple(state.unsqueeze(0) for state in states)
        for state in states:
            if tuple(state.shape) != (rows.shape[0], net.hidden_size):
                raise RuntimeError(
                    f"{name}: Expected hidden of shape {(rows.shape[0], net.hidden_size)}, got"
                    f" {tuple(state.shape)}"
                )
        dtype = _result_dtype(rows, net.weight_hh)
        with _no_autocast(rows):
            _, *last = self._direction(
                "",
                mode,
                rows.float(),
                states[0],
                states[1] if mode == "lstm" else None,
                (rows.shape[0],),
            )
        found = [state.to(dtype) for state in last]
        return tuple(found if batched else (state.squeeze(0) for state in found))


class RNNCell(_Cell, nn.RNNCell):
    """A converted `torch.nn.RNNCell`, tanh or relu."""

    @eager
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next hidden state."""
        mode: Mode = "relu" if self.nonlinearity == "relu" else "tanh"
        return self._step(input, None if hx is None else (hx,), mode)[0]


class GRUCell(_Cell, nn.GRUCell):
    """A converted `torch.nn.GRUCell`."""

    @eager
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next hidden state."""
        return self._step(input, None if hx is None else (hx,), "gru")[0]


class LSTMCell(_Cell, nn.LSTMCell):
    """A converted `torch.nn.LSTMCell`."""

    @eager
    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The next hidden and cell state."""
        h, c = self._step(input, hx, "lstm")
        return h, c


_CLASSES: dict[type[nn.Module], type[Recurrent]] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}


def recurrent_class(module: nn.Module) -> type[Recurrent] | None:
    """The class that a recurrent layer would become; None for others and for subclasses.

    >>> recurrent_class(nn.GRU(2, 3)).__name__, recurrent_class(nn.Linear(2, 3))
    ('GRU', None)
    """
    return _CLASSES.get(type(module))


def gemm_names(module: nn.Module) -> list[str]:
    """The Gemms of a recurrent layer, in the order in which it computes them.

    >>> gemm_names(nn.LSTM(4, 3, num_layers=2, proj_size=2))
    ['ih_l0', 'hh_l0', 'hr_l0', 'ih_l1', 'hh_l1', 'hr_l1']
    """
    return [f"{part}{suffix}" for suffix in _suffixes(module) for part in _kinds(module)]


def top_names(module: nn.Module) -> tuple[set[str], set[str]]:
    """(Gemms that multiply the input of the whole stack, Gemms of its last layer).

    >>> first, last = top_names(nn.GRU(4, 3, num_layers=2))
    >>> sorted(first), sorted(last)
    (['ih_l0'], ['hh_l1', 'ih_l1'])
    """
    suffixes = _suffixes(module)
    directions = 2 if getattr(module, "bidirectional", False) else 1
    first = {f"ih{suffix}" for suffix in suffixes[:directions]}
    return first, {f"{p}{s}" for s in suffixes[-directions:] for p in _kinds(module)}


def _suffixes(module: nn.Module) -> list[str]:
    if not isinstance(module, nn.RNNBase):
        return [""]
    directions = ("", "_reverse") if module.bidirectional else ("",)
    return [f"_l{layer}{d}" for layer in range(module.num_layers) for d in directions]


def _kinds(module: nn.Module) -> tuple[str, ...]:
    return ("ih", "hh", "hr") if getattr(module, "proj_size", 0) else ("ih", "hh")


def attach_gemm(module: nn.Module, part: str) -> RecurrentGemm:
    """The child of `module` for its Gemm `part`, without state yet; makes `module` a converted
    layer with its first one."""
    cls = recurrent_class(module)
    if cls is not None:
        module.__class__ = cls
    child = RecurrentGemm(module, part)
    child.training = module.training
    module.add_module(part, child)
    return child


def _unbatched(hx: Any) -> Any:
    if hx is None:
        return None
    states = hx if isinstance(hx, tuple) else (hx,)
    if any(state.dim() != 2 for state in states):
        raise RuntimeError("For unbatched 2-D input, hx and cx should also be 2-D")
    return tuple(s.unsqueeze(1) for s in states) if isinstance(hx, tuple) else hx.unsqueeze(1)


def _result_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(x.dtype, weight.dtype)


def _no_autocast(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
