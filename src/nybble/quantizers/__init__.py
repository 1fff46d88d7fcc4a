"""Scale, rounding and their composition; packing; counter-based random bits; fixed-order sums."""
