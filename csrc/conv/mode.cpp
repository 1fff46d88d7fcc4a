#include "conv/mode.hpp"

#include <algorithm>
#include <stdexcept>

namespace nybble {
namespace {

int64_t limit_of(const ConvOperand& o) { return std::max(-o.low, o.high); }

bool fits_signed_byte(const ConvOperand& o) { return o.low >= -128 && o.high <= 127; }

Mode bytes(bool first_unsigned, int64_t low, int64_t u, int64_t s) {
  const int64_t pair = 2 * u * s;
  return {1, first_unsigned, low, pair == 0 ? int64_t(1) << 30 : 32767 / pair, (u - low) * s};
}

} // namespace

Mode choose_mode(const ConvOperand& first, const ConvOperand& second) {
  const int64_t a = limit_of(first), b = limit_of(second), wide = first.high - first.low;
  const int64_t most = active().gemm->saturates ? 32767 : INT32_MAX; // of a pair of products
  const bool first_fits = wide <= 255 && fits_signed_byte(second) && 2 * wide * b <= most;
  const bool second_fits = second.low == 0 && second.high <= 255 && fits_signed_byte(first) &&
                           2 * second.high * a <= most;
  if (first_fits && (first.low == 0 || !second_fits)) return bytes(true, first.low, wide, b);
  if (second_fits) return bytes(false, 0, second.high, a);
  return words_mode(first, second);
}

Mode words_mode(const ConvOperand& first, const ConvOperand& second) {
  const int64_t a = limit_of(first), b = limit_of(second);
  if (2 * a * b > INT32_MAX)
    throw std::invalid_argument("convolution: the integers of the two formats are too large");
  return {2, false, 0, 0, a * b};
}

int64_t groups_within(const Mode& mode, int64_t limit) {
  if (mode.per_k == 0) return int64_t(1) << 40;
  return std::max<int64_t>(1, limit / (mode.per_k * mode.group()));
}

} // namespace nybble
