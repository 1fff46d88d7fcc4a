"""Layer hooks: what a recipe does to a weight beside quantising it, with a state of its own."""

from nybble.quantizers.hooks.base import LayerHook, hook_from_dict
from nybble.quantizers.hooks.oscillation import OsciReset
from nybble.quantizers.hooks.qema import QEma

__all__ = ["LayerHook", "OsciReset", "QEma", "hook_from_dict"]
