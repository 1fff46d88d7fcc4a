// One dimension of a gradient towards the input, cut by what the stride lets through.
//
// Input pixels start + stride * j of one phase meet the same taps: those with
// (start + pad - k * dilation) divisible by the stride, at j + (start + pad - k * dilation) /
// stride of the gradient.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace nybble {

struct Phase {
  struct Tap {
    int64_t index, offset; // in the kernel; of the gradient's line against j
  };
  int64_t start, count; // first pixel, how many
  std::vector<Tap> taps;
};

inline std::vector<Phase> phases_of(int64_t size, int64_t kernel, int64_t stride, int64_t pad,
                                    int64_t dilation) {
  std::vector<Phase> phases;
  for (int64_t start = 0; start < std::min(stride, size); ++start) {
    Phase phase{start, (size - 1 - start) / stride + 1, {}};
    for (int64_t k = 0; k < kernel; ++k) {
      const int64_t distance = start + pad - k * dilation;
      if (distance % stride == 0) phase.taps.push_back({k, distance / stride});
    }
    phases.push_back(std::move(phase));
  }
  return phases;
}

// The lines of the gradient that the phases read: first and how many.
inline void reach(const std::vector<Phase>& phases, int64_t& first, int64_t& count) {
  bool any = false;
  int64_t low = 0, high = 0;
  for (const Phase& phase : phases)
    for (const Phase::Tap& tap : phase.taps) {
      const int64_t last = phase.count - 1 + tap.offset;
      low = any ? std::min(low, tap.offset) : tap.offset;
      high = any ? std::max(high, last) : last;
      any = true;
    }
  first = low, count = any ? high - low + 1 : 0;
}

} // namespace nybble
