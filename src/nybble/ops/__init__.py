"""The Gemms as torch operators: `library.py` defines them, `reference/` computes them.

Importing this package defines the operators.
"""

from nybble.ops import library
from nybble.ops.geometry import Geometry
from nybble.ops.spec import SAME, Accumulator, LayerSpec

__all__ = ["SAME", "Accumulator", "Geometry", "LayerSpec", "library"]
