// Layer normalisation over rows whose width is a multiple of 64, and 4-bit slopes (GELU, SiLU).
//
//   d = x - mean,  rstd = 1 / sqrt(mean of d^2 + eps),  y = (d * rstd) * weight + bias
//   step = max|d| * rstd / 7.5;  code = floor(d * (7.5 / max|d|) + 8) clipped to [0, 15]
//   x^ = (code - 7.5) * step
//   h = dy * weight;  dx = ((h - mean(h)) - x^ * mean(h x^)) * rstd;  dweight = sum dy x^
//   slopes: code = floor(12 d + 2.5) clipped to [0, 15];  dx = dy * ((code - 2) / 12)
//
// A sum over a row: eight lanes, lane l adds the elements l, l + 8, ... in ascending order; then
// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)). Sums over rows: as in norm.hpp.
#pragma once

#include <cstdint>

namespace nybble {

struct RowKernels {
  // `stats`: two floats a row, step and rstd. weight and bias may be null.
  void (*forward)(const float* x, int64_t rows, int64_t width, const float* weight,
                  const float* bias, float eps, float* y, uint8_t* packed, float* stats);
  // dx may be dy or null; sum and product: dbias and dweight of these rows are added to them.
  // `work` has 3 * width floats.
  void (*backward)(const float* dy, const uint8_t* packed, const float* stats, int64_t rows,
                   int64_t width, const float* weight, float* dx, double* sum, double* product,
                   float* work);
  void (*pack_slopes)(const float* slopes, int64_t blocks, uint8_t* packed);
  void (*slope_grad)(const float* dy, const uint8_t* packed, int64_t blocks, float* dx);
};

extern const RowKernels kRowsGeneric;
extern const RowKernels kRowsAvx2;

// The drivers. `rows` x `width` values; dweight and dbias have `width` numbers.
void layer_norm_forward(const float* x, int64_t rows, int64_t width, const float* weight,
                        const float* bias, float eps, float* y, uint8_t* packed, float* stats,
                        int threads);
void layer_norm_backward(const float* dy, const uint8_t* packed, const float* stats, int64_t rows,
                         int64_t width, const float* weight, float* dx, float* dweight,
                         float* dbias, int threads);
void slopes_forward(const float* slopes, int64_t count, uint8_t* packed, int threads);
void slopes_backward(const float* dy, const uint8_t* packed, int64_t count, float* dx, int threads);

} // namespace nybble
