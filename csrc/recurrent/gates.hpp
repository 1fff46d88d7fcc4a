// The elementwise part of recurrent layers, one row of `n` units at a time.
//
//     s = x' x', x' = x clipped to [-9, 9]        tanh(x) = x' P(s) / Q(s) clipped to [-1, 1]
//     sigmoid(x) = tanh(x / 2) / 2 + 1 / 2
//
// Rows of several gates lie gate after gate: i f g o (LSTM), r z n (GRU; its results and what is
// kept of it: r z n and the hidden part of n). Every operation is one float32 rounding, in the
// order of ops/reference/recurrent.py; outputs may be inputs of the same index.
#pragma once

#include <cstdint>

namespace nybble {

struct GateKernels {
  // gates = i f g o; c = f c + i g; h = o tanh(c)
  void (*lstm)(int64_t n, const float* gx, const float* gh, float* gates, float* c, float* h);
  // dz of the four gates; dc in and out; c: before the step
  void (*lstm_grad)(int64_t n, const float* gates, const float* c, const float* dh, float* dc,
                    float* dz);
  // gates = r z n gh_n; out = n + z (h - n)
  void (*gru)(int64_t n, const float* gx, const float* gh, const float* h, float* gates,
              float* out);
  // dgx, dgh of the three gates; direct = dh z
  void (*gru_grad)(int64_t n, const float* gates, const float* h, const float* dh, float* dgx,
                   float* dgh, float* direct);
  // h = tanh(gx + gh), or max(gx + gh, 0)
  void (*plain)(int64_t n, bool relu, const float* gx, const float* gh, float* h);
  void (*plain_grad)(int64_t n, bool relu, const float* h, const float* dh, float* dz);
};

extern const GateKernels kGatesGeneric;
extern const GateKernels kGatesAvx2;

} // namespace nybble
