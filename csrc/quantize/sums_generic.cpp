#include <cstring>

#include "quantize/sums.hpp"

namespace nybble {
namespace {

// The tree over `count` values of one lane; an odd last one is carried over.
float tree(float* v, int count) {
  while (count > 1) {
    for (int i = 0; i < count / 2; ++i)
      v[i] = v[2 * i] + v[2 * i + 1];
    if (count % 2) v[count / 2] = v[count - 1];
    count = (count + 1) / 2;
  }
  return v[0];
}

float magnitude(float x, uint32_t* top) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  b &= 0x7fffffffu;
  *top = b > *top ? b : *top;
  std::memcpy(&x, &b, 4);
  return x;
}

void rows(const float* const* from, int count, float* out) {
  for (int lane = 0; lane < kLanes; ++lane) {
    float v[kGroupRows];
    for (int i = 0; i < count; ++i)
      v[i] = from[i][lane];
    out[lane] = tree(v, count);
  }
}

uint32_t moments(const float* const* from, int count, float* squares, float* magnitudes) {
  uint32_t top = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    float v[kGroupRows], m[kGroupRows];
    for (int i = 0; i < count; ++i) {
      const float x = from[i][lane];
      v[i] = x * x;
      m[i] = magnitude(x, &top);
    }
    squares[lane] = tree(v, count);
    magnitudes[lane] = tree(m, count);
  }
  return top;
}

void add(const float* a, const float* b, float* out) {
  for (int lane = 0; lane < kLanes; ++lane)
    out[lane] = a[lane] + b[lane];
}

void fold(float* lanes, int64_t n) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    if (half >= n) continue; // that would add zeros
    for (int64_t i = 0; i < half; ++i)
      lanes[i] = lanes[i] + lanes[i + half];
  }
}

void masked(float* dx, int64_t n, const uint8_t* mask, const uint8_t* codes, const int8_t* sides,
            float* above, float* below) {
  for (int64_t i = 0; i < n; ++i) {
    const float inside = float(mask[i / 8] >> (i % 8) & 1);
    if (codes != nullptr) {
      const uint8_t byte = codes[i / 64 * 32 + i % 32];
      const int side = inside != 0.0f ? 0 : sides[i % 64 < 32 ? byte & 15 : byte >> 4];
      above[i] = float(below == nullptr || side > 0 ? side : 0) * dx[i];
      if (below != nullptr) below[i] = float(side < 0 ? side : 0) * dx[i];
    }
    dx[i] = dx[i] * inside;
  }
  for (int64_t i = n; codes != nullptr && i < kLanes; ++i) {
    above[i] = 0.0f;
    if (below != nullptr) below[i] = 0.0f;
  }
}

} // namespace

const SumKernels kSumGeneric = {rows, moments, add, fold, masked};

} // namespace nybble
