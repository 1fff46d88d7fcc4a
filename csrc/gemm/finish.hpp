// The two ends of a tile. At the end integers become floats, in the order that ops/exactness.py
// defines.
//
//     result = float32(acc) * (s_a * s_b) [+ bias]          every operation one rounding
//
// and, for block scales along the contraction, the sum over blocks in ascending order:
//
//     sum = sum + float32(acc) * (s_a * s_b)
//
// A missing scale is a vector of ones: 1 * s is s.
#pragma once

#include <cstdint>

namespace nybble {

struct FinishKernels {
  // A tile's sums before the first product: acc[r * kColumns + c] = for_rows[r] + for_columns[c],
  // the compensation of a shifted operand (plan.hpp) or zeros.
  void (*begin)(const int32_t* for_rows, const int32_t* for_columns, int32_t* acc);
  // out[r * stride + c] for r < rows, c < columns from acc[r * kColumns + c]; scale_b and bias have
  // kColumns readable elements; bias may be null.
  void (*tile)(const int32_t* acc, int rows, int columns, const float* scale_a,
               const float* scale_b, const float* bias, float* out, int64_t stride);
  // sum[i] of a whole tile; scale_a has kRows elements, scale_b kColumns.
  void (*block)(const int32_t* acc, const float* scale_a, const float* scale_b, float* sum);
};

extern const FinishKernels kFinishGeneric;
extern const FinishKernels kFinishAvx2;

} // namespace nybble
