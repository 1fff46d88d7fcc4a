"""Fit the rational function by which recurrent gates compute tanh; prints the coefficients.

    tanh(x) ~ x P(x^2) / Q(x^2),  |x| <= 9,  P and Q of degree 4 with P(0) = Q(0) = 1

Linearised least squares (Sanathanan and Koerner), with weights moved towards the largest error
(Lawson's algorithm). `src/nybble/ops/reference/gates.py` and `csrc/recurrent/gates.hpp` hold what
it printed; tests compare the two with each other and with tanh in float64.
"""

from __future__ import annotations

import numpy as np

DEGREE, LIMIT, POINTS, ROUNDS = 4, 9.0, 4000, 200


def fit() -> tuple[float, list[float], list[float]]:
    """(largest error before rounding, P, Q), ascending."""
    x = LIMIT / 2 * (1 - np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS))
    u, t = (x / LIMIT) ** 2, np.tanh(x)
    powers = [u**i for i in range(1, DEGREE + 1)]
    below, weight = np.ones(POINTS), np.ones(POINTS)
    least, best = np.inf, np.zeros(2 * DEGREE)
    for _ in range(ROUNDS):
        columns = [x * p for p in powers] + [-t * p for p in powers]
        matrix = np.stack([c / below * weight for c in columns], axis=1)
        found = np.linalg.lstsq(matrix, (t - x) / below * weight, rcond=None)[0]
        top = 1 + sum(c * p for c, p in zip(found[:DEGREE], powers, strict=True))
        below = 1 + sum(c * p for c, p in zip(found[DEGREE:], powers, strict=True))
        error = np.abs(x * top / below - t)
        if error.max() < least:
            least, best = error.max(), found
        weight *= np.sqrt(error / error.max() + 1e-3)
        weight /= weight.max()
    scaled = [float(c) / LIMIT ** (2 * (i % DEGREE + 1)) for i, c in enumerate(best)]
    return float(least), [1.0, *scaled[:DEGREE]], [1.0, *scaled[DEGREE:]]


if __name__ == "__main__":
    least, top, bottom = fit()
    print(f"largest error {least:.1e}")
    for name, values in (("P", top), ("Q", bottom)):
        print(name, [float(np.float32(v)) for v in values])
