"""The numeric library under the layers: quantise, look at the codes, multiply, save.

python examples/03_four_bit_numbers.py
"""

import tempfile
from pathlib import Path

import numpy as np

import nybble
from nybble.formats import get_format
from nybble.quantizers import AbsMax, Quantizer


def main() -> tuple[float, int]:
    """Returns the relative error of a 4-bit matrix product and the bytes of one operand."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(64, 128)), rng.normal(size=(128, 32))
    rows = Quantizer(get_format("int4_sym"), AbsMax("row"))
    whole = Quantizer(get_format("int4_sym"), AbsMax())
    qa, qb = nybble.quantize(a, rows), nybble.quantize(b, whole)
    product = nybble.matmul(qa, qb)  # integer sums, then the scales
    error = float(np.linalg.norm(product.numpy() - a @ b) / np.linalg.norm(a @ b))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        qa.save(path)
        same = nybble.QTensor.load(path)
    print("first codes", same.codes().flatten()[:8].tolist(), "- relative error", round(error, 3))
    return error, qa.nbytes


if __name__ == "__main__":
    main()
