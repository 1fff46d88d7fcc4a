#include "quantize/fit.hpp"

#include <cmath>
#include <cstring>
#include <limits>

namespace nybble {
namespace {

constexpr float kLeast = 0x1p-126f;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

float from_bits(uint32_t bits) {
  if (bits > 0x7f800000u) return kNaN;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

} // namespace

float bound_of(const float* x, int64_t n, const FitRule& rule, int threads) {
  uint32_t top = 0;
  if (rule.statistic == int32_t(Statistic::AbsMax)) {
    absmax(x, false, 1, n, &top, threads);
    return from_bits(top);
  }
  if (n == 0) return 0.0f;
  float squares, magnitudes;
  moments(x, 1, n, &squares, &magnitudes, &top, threads);
  return sawb_bound(squares, magnitudes, from_bits(top), n, rule.c1, rule.c2);
}

float scale_of(float bound, float levels) {
  const float scale = bound / levels;
  if (!std::isfinite(bound)) return kNaN;
  if (bound == 0.0f) return 1.0f;
  return scale < kLeast ? kLeast : scale;
}

float sawb_bound(float squares, float magnitudes, float largest, int64_t n, float c1, float c2) {
  const float count = float(n);
  const float mean = magnitudes / count, rms = std::sqrt(squares / count);
  float raw = rms * c1 - mean * c2;
  if (!(raw >= mean)) raw = mean + mean;
  return largest <= raw ? largest : raw;
}

float quantize_integer(Target target, const FitRule& rule, float clip, int threads) {
  const bool learned = rule.statistic == int32_t(Statistic::Clip);
  const auto* x = static_cast<const float*>(target.x);
  const float bound =
      learned ? (clip < kLeast ? kLeast : clip) : bound_of(x, target.n, rule, threads);
  const float scale = scale_of(bound, rule.levels);
  const float inverse = 1.0f / scale;
  const IntegerRule integer{rule.low, rule.high, (1u << rule.bits) - 1u, false, 0.0f};
  target.inside_low = float(rule.low), target.inside_high = float(rule.high);
  const Packed packed = pack_integer(target, {&inverse, 1, 1}, integer, threads);
  // Statistics of the tensor are NaN already where it is not finite; a learned clip is not.
  if (learned && !packed.finite) return kNaN;
  return rule.unit == 1.0f ? scale : scale * rule.unit;
}

} // namespace nybble
