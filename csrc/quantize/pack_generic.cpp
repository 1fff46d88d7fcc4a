// The pack kernels one element at a time: the twin of pack_avx2.cpp, operation by operation.
#include <cstring>

#include "core/unpack.hpp"
#include "quantize/pack.hpp"

namespace nybble {
namespace {

uint32_t bits_of(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  return b;
}

float load(const Piece& p, int64_t i) {
  if (!p.bf16) return static_cast<const float*>(p.x)[i];
  const uint32_t b = uint32_t(static_cast<const uint16_t*>(p.x)[i]) << 16;
  float x;
  std::memcpy(&x, &b, 4);
  return x;
}

// Runs `code(y, i, out)` over the piece; out[0] and out[1] are the codes of the two grids.
template <class Code>
uint32_t run(const Piece& p, float zero, bool affine, const Code& code) {
  uint32_t top = 0;
  for (int64_t at = 0; at < p.n; at += int64_t(kBlockCodes)) {
    uint8_t codes[2][kBlockCodes] = {};
    uint64_t inside = 0;
    const int64_t count = p.n - at < int64_t(kBlockCodes) ? p.n - at : int64_t(kBlockCodes);
    for (int64_t i = 0; i < count; ++i) {
      const float x = load(p, at + i);
      const uint32_t magnitude = bits_of(x) & 0x7fffffffu;
      top = magnitude > top ? magnitude : top;
      float y = x * p.factor;
      if (affine) y = y + zero;
      inside |= uint64_t(y >= p.inside_low && y <= p.inside_high) << i;
      uint8_t out[2] = {0, 0};
      code(y, at + i, out);
      codes[0][i] = out[0];
      codes[1][i] = out[1];
    }
    uint8_t* to[2] = {p.codes, p.second};
    for (int k = 0; k < 2; ++k)
      if (to[k] != nullptr)
        for (size_t i = 0; i < kBlockBytes; ++i)
          to[k][at / 2 + int64_t(i)] = uint8_t(codes[k][i] | codes[k][i + kBlockBytes] << 4);
    if (p.mask != nullptr)
      for (int64_t i = 0; i < (count + 7) / 8; ++i)
        p.mask[at / 8 + i] = uint8_t(inside >> (8 * i));
  }
  return top;
}

uint32_t integer(const Piece& p, const IntegerRule& rule) {
  const float low = float(rule.low), high = float(rule.high);
  return run(p, rule.zero, rule.affine, [&](float y, int64_t, uint8_t* out) {
    const float t = y < high ? y : high;
    // Adding 1.5 * 2^23 rounds to an integer, ties to even.
    const float r = t > low ? (t + 12582912.0f) - 12582912.0f : low;
    out[0] = uint8_t(uint32_t(int32_t(r)) & rule.nibble);
  });
}

uint8_t log_code(uint32_t bits, const LogRule& rule, const LogPhase& phase) {
  const uint32_t word = (bits + rule.carry) >> 16;
  const uint32_t a = word & 0x7fffu;
  uint32_t m = a > phase.start ? (a - phase.start) >> phase.shift : 0;
  m = m < phase.top ? m : phase.top;
  if (rule.halves) {
    const uint32_t h = ((bits + 0xffffu) >> 16) & 0x7fffu;
    m = h <= phase.half ? 0 : m < 1 ? 1 : m;
  }
  const int signed_m = word & 0x8000u ? -int(m) : int(m);
  return phase.table[(8 + signed_m) & 15];
}

uint32_t log(const Piece& p, const LogRule& rule) {
  return run(p, 0.0f, false, [&](float y, int64_t, uint8_t* out) {
    const uint32_t bits = bits_of(y);
    out[0] = log_code(bits, rule, rule.phase[0]);
    if (p.second != nullptr) out[1] = log_code(bits, rule, rule.phase[1]);
  });
}

uint32_t thresholds(const Piece& p, const ThresholdRule& rule) {
  return run(p, 0.0f, false, [&](float y, int64_t, uint8_t* out) {
    int rank = 0;
    for (float t : rule.thresholds)
      rank += y >= t;
    out[0] = rule.table[rank];
  });
}

uint32_t stochastic(const Piece& p, const StochasticRule& rule) {
  const int last = rule.count - 1;
  return run(p, rule.zero, true, [&](float y, int64_t i, uint8_t* out) {
    const bool negative = rule.magnitude && (bits_of(y) >> 31);
    float m = negative ? -y : y;
    m = m > rule.levels[0] ? m : rule.levels[0]; // NaN becomes the first level
    m = m < rule.levels[last] ? m : rule.levels[last];
    int rank = 0;
    for (int k = 1; k <= last; ++k)
      rank += m >= rule.levels[k];
    const float lo = rule.levels[rank];
    const float width = rank < last ? rule.levels[rank + 1] - lo : 1.0f;
    const float u = float(p.random[i]) * 0x1p-24f;
    rank += u < (m - lo) / width;
    out[0] = rule.table[rank + (negative ? 8 : 0)];
  });
}

} // namespace

const QuantizeKernels kQuantizeGeneric = {integer, log, thresholds, stochastic};

} // namespace nybble
