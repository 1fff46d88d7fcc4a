// Sums in the fixed order of quantizers/sums.py: rows of 1024 lanes, a binary tree over the rows,
// ten halvings of the lanes.
//
// The tree over rows pairs (0, 1), (2, 3), .. and carries an odd last row over, so 2^k rows that
// start at a multiple of 2^k are a subtree of their own: groups of 8 rows are added in registers,
// groups of 64 rows are a task of a thread, and the rest is a tree over their results.
#pragma once

#include <cstdint>

namespace nybble {

constexpr int kLanes = 1024;
constexpr int kGroupRows = 8; // rows that one call of a kernel adds

struct SumKernels {
  // out = tree over rows[0 .. count) (1 to 8 rows of 1024 floats)
  void (*rows)(const float* const* rows, int count, float* out);
  // squares = tree of fl(x * x), magnitudes = tree of |x|; returns the bits of max|x|
  uint32_t (*moments)(const float* const* rows, int count, float* squares, float* magnitudes);
  // out = a + b on 1024 lanes (out may be a)
  void (*add)(const float* a, const float* b, float* out);
  // Halves 1024 lanes, of which those from n on (at least 1) hold zeros, down to lanes[0].
  void (*fold)(float* lanes, int64_t n);
  // One row of up to 1024 elements of the masked gradient: side = sides[code] where the mask bit
  // is 0, else 0; above = max(side, 0) * dx, below = min(side, 0) * dx (or above = side * dx where
  // `below` is null), zeros beyond n; then dx *= mask bit. `codes` may be null: only the last step.
  void (*masked)(float* dx, int64_t n, const uint8_t* mask, const uint8_t* codes,
                 const int8_t* sides, float* above, float* below);
};

extern const SumKernels kSumGeneric;
extern const SumKernels kSumAvx2;

} // namespace nybble
