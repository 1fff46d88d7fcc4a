// Batch normalisation in training mode, with or without the ReLU after it, and ReLU alone.
//
//   mean, var   per channel over all pixels (var divides by their number)
//   y           x * scale + (beta - mean * scale), scale = gamma / sqrt(var + eps); max(y, 0)
//   codes       of (x - mean) / sqrt(var + eps), 4 bits: src/nybble/nn/memory/grid.py has the grid
//   g           dy, 0 where the ReLU was off;  x^ = code * step + offset
//   dbeta       sum g;  dgamma = sum g x^;  dx = scale (g - dbeta / n - x^ dgamma / n)
//
// Sums: float32 over 64 pixels, then double, in chunks whose size depends on the shape alone; the
// chunks' sums are added in ascending order. So results do not depend on the number of threads.
#pragma once

#include <cstdint>

namespace nybble {

// What a forward pass leaves: rows of `channels` floats.
enum NormRow { kMean, kScale, kStep, kOffset, kFirst, kNormRows };

struct NormShape {
  int64_t pixels, channels;
  int threads;
};

struct NormChannels {
  const float *weight, *bias;        // null: 1 and 0
  float *running_mean, *running_var; // null: not kept
  double momentum, eps;
};

// y may be x. `packed`: packed_bytes4(pixels * channels) bytes; `stats`: kNormRows rows.
void batch_norm_forward(const NormShape& shape, const float* x, const NormChannels& channels,
                        bool relu, float* y, uint8_t* packed, float* stats);

// dx may be dy, or null where it is not wanted.
void batch_norm_backward(const NormShape& shape, const float* dy, const uint8_t* packed,
                         const float* stats, float* dx, float* dgamma, float* dbeta);

// Over `count` values; `bits`: (count + 7) / 8 bytes. y may be x, dx may be dy.
// top: of a ReLU6, or NaN.
void relu_forward(const float* x, int64_t count, float top, float* y, uint8_t* bits, int threads);
void relu_backward(const float* dy, const uint8_t* bits, int64_t count, float* dx, int threads);

} // namespace nybble
