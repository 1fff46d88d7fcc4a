"""The recipes without a narrow format: `fp32` (converts nothing), `bf16` and `fp16`.

`fp16` is the paper's 16-bit baseline: every operand of the three Gemms is rounded to FP16 and the
products are summed in float32. CPUs without FP16 arithmetic compute the same numbers, since the
product of two FP16 values is exact in float32. FP16 gradients need a loss scale (`loss_scale`, as
in mixed-precision training, Micikevicius et al. 2018, arXiv 1710.03740; the value is this
project's choice). `bf16` is the same with bfloat16 (Kalamkar et al. 2019, arXiv 1905.12322).

Not done here: 16-bit master weights and 16-bit optimizer state.
"""

from __future__ import annotations

from nybble.ops.spec import LayerSpec
from nybble.recipes.parts import uniform_spec
from nybble.recipes.recipe import Recipe, read_settings


def fp32(**switches: str) -> Recipe:
    """Float32 throughout: `convert` leaves every layer as it is."""
    read_settings("fp32", (), switches)
    return Recipe("fp32", "float32 baseline", "IEEE 754", LayerSpec())


def bf16(**switches: str) -> Recipe:
    """All six operands rounded to bfloat16, sums in float32."""
    read_settings("bf16", (), switches)
    source = "Kalamkar et al. 2019, arXiv 1905.12322"
    return Recipe("bf16", "bfloat16 operands", source, uniform_spec("bf16"))


def fp16(**switches: str) -> Recipe:
    """All six operands rounded to FP16, sums in float32, loss scaled by 1024."""
    read_settings("fp16", (), switches)
    source = "Micikevicius et al. 2018, arXiv 1710.03740"
    return Recipe("fp16", "16-bit baseline", source, uniform_spec("fp16"))
