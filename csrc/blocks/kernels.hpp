// Operands whose scale follows blocks along a dimension, and their Hadamard turn: the inner loops.
//
// A row is neighbours in memory; element j belongs to number j / run of the row's scales. Every
// operation is one float32 rounding. Levels are integers (value / unit), which sums of differences
// give exactly, so that no table has to be looked up.
#pragma once

#include <cstdint>

namespace nybble {

// Nearest: low + the sum of rise[k] over the thresholds that y has reached; NaN becomes `nan`.
struct NearestLevels {
  float thresholds[15], nan; // ascending; those that are not used are NaN
  float rise[15], low;
};

// Stochastic: the neighbours lo <= m <= hi of m = y / unit, or |y| / unit with the sign put back,
// and the upper one if random * 2^-24 < fl(fl(m - lo) / fl(hi - lo)).
struct StochasticLevels {
  float level[15], low; // level[k]: of rank k + 1; those that are not used are NaN
  float rise[15], nan;  // level[k] - the one below
  float widen[15], gap; // hi - lo of rank k + 1 less that of rank k; `gap` is of rank 0
  float least, most;    // what y (or |y|) is cut off at, a multiple of the unit
  float per_unit;       // 1 / unit, a power of two
  int32_t magnitude;    // at most 7 levels above 0, the sign apart
};

struct BlockKernels {
  // tops[j / run] = max(tops[j / run], bits of |x[j]|): a NaN counts more than infinity
  void (*tops)(const float* x, int64_t n, int64_t run, uint32_t* tops);
  // y[j] = x[j] * scale[j / run]
  void (*scaled)(const float* x, int64_t n, const float* scale, int64_t run, float* y);
  // y[j] = the level of fl(x[j] * inv[j / run])
  void (*nearest)(const float* x, int64_t n, const float* inv, int64_t run,
                  const NearestLevels& levels, float* y);
  void (*stochastic)(const float* x, int64_t n, const float* inv, int64_t run,
                     const StochasticLevels& levels, const int32_t* random, float* y);
  // `count` blocks of `block` (a power of two) elements, element i of a line at x[i * inner + l]
  // for the lines l < inner, one block behind the other: signs (or null), butterflies of width 1,
  // 2, 4, .., one product with `root`; with `back` the signs come with the product. Block b has
  // the signs signs[(b % period) * block + i].
  void (*turn)(const float* x, int64_t count, int64_t block, int64_t inner, const float* signs,
               int64_t period, float root, bool back, float* y);
  // The same for blocks that span `rows` rows of `length` elements: element i of block j, one of
  // `count`, at x[(i * count + j) * inner + l] with the sign signs[i * count + j]; of the blocks
  // first <= j < last.
  void (*turn_strided)(const float* x, int64_t rows, int64_t length, int64_t block, int64_t count,
                       int64_t first, int64_t last, int64_t inner, const float* signs, float root,
                       bool back, float* y);
};

extern const BlockKernels kBlockGeneric;
extern const BlockKernels kBlockAvx2;

} // namespace nybble
