// The drivers of the Winograd convolutions; kernels.hpp has the mathematics, plan.hpp the bounds.
#pragma once

#include <cstdint>

#include "winograd/plan.hpp"

namespace nybble {

struct WinogradOperand {
  const uint8_t* packed;
  const int16_t* table; // 16 integers
  Range range;          // of the integers that occur
};

// out[n, y, x, m] = sum over kh, kw, k of image[n, y + kh - pad_h, x + kw - pad_w, k] * w, with
//   w = kernels[m, kh, kw, k]            (turned = false: the output of a layer)
//   w = kernels[k, 2 - kh, 2 - kw, m]    (turned = true: the input gradient)
struct WinogradCorrelation {
  WinogradOperand image;   // [n, height, width, channels]
  WinogradOperand kernels; // [outputs, 3, 3, channels], or [channels, 3, 3, outputs] if turned
  bool turned;
  int64_t n, height, width, channels, outputs;
  int64_t pad_h, pad_w;
  // float(sum) * scale + bias; scales [1 or n][outputs], bias [outputs] or null
  const float* scale;
  bool scale_per_image;
  const float* bias;
  float* out; // [n, height + 2 pad_h - 2, width + 2 pad_w - 2, outputs]
  int threads;
};

// Throws std::invalid_argument if the plan refuses it.
void winograd_correlate(const WinogradCorrelation& c);

// out[o, kh, kw, c] = sum over n, y, x of grad[n, y, x, o] * image[n, y + kh - pad_h, x + kw -
// pad_w, c], times scale_grad[o] * scale_image[c] (each [1] or as many as that).
struct WinogradGradWeight {
  WinogradOperand grad;  // [n, height + 2 pad_h - 2, width + 2 pad_w - 2, outputs]
  WinogradOperand image; // [n, height, width, channels]
  int64_t n, height, width, channels, outputs;
  int64_t pad_h, pad_w;
  const float* scale_grad;
  int64_t scale_grad_count;
  const float* scale_image;
  int64_t scale_image_count;
  float* out;
  int64_t spill; // spill to int64 at least every so many tiles (tests; the plan may want it sooner)
  int threads;
};

void winograd_grad_weight(const WinogradGradWeight& c);

} // namespace nybble
