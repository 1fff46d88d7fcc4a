#include "lines/rounds.hpp"

#include <algorithm>
#include <cmath>

namespace nybble {
namespace {

constexpr int kTop = 7;

// The rank of the level at or below w, of those that are not the top one.
uint8_t below(const float* level, int w) {
  uint8_t rank = 0;
  for (int k = 1; k < kTop; ++k)
    rank = uint8_t(rank + (float(w) >= level[k]));
  return rank;
}

float factor(const Multiplier& m, int64_t j) { return m.each == nullptr ? m.one : m.each[j]; }

} // namespace

bool whole_levels(const StochasticRule& rule, WholeLevels* out) {
  if (rule.magnitude || rule.count != 2 * kTop + 1 || rule.zero != 0.0f) return false;
  const float* up = rule.levels + kTop;
  if (up[0] != 0.0f || !(up[kTop] < 32.0f)) return false;
  for (int k = 1; k <= kTop; ++k)
    if (rule.levels[kTop - k] != -up[k] || !(up[k] > up[k - 1])) return false;
  for (int k = 1; k < kTop; ++k)
    if (up[k] != std::floor(up[k]) || up[k] == 16.0f) return false; // 16 would be high[0]
  for (int k = 0; k <= kTop; ++k) {
    out->level[k] = up[k];
    out->width[k] = k < kTop ? up[k + 1] - up[k] : 1.0f;
  }
  for (int w = 0; w < 16; ++w) {
    out->low[w] = below(up, w);
    out->high[w] = uint8_t(below(up, w + 16) - below(up, 15));
  }
  std::copy(rule.table, rule.table + 16, out->codes);
  return true;
}

void rounded_generic(const FoldedPiece& p, const WholeLevels& levels) {
  const auto code = [&](int64_t row, int64_t j) {
    const float z = p.x[row * p.step + j] * factor(p.fold, j), y = z * factor(p.inv, j);
    const bool negative = !(y >= 0.0f); // a NaN becomes the lowest level
    const float size = std::fabs(y), m = size < levels.level[kTop] ? size : levels.level[kTop];
    const int w = int(m);
    const int rank = levels.low[std::min(w, 15)] + (w < 16 ? 0 : levels.high[w - 16]);
    // The lower neighbour of a negative number is the one of larger magnitude.
    const int from = rank + negative;
    const float part = std::fabs(m - levels.level[from]) / levels.width[rank];
    const int up = float(p.random[row * p.n + j]) * 0x1p-24f < part;
    return levels.codes[kTop + (negative ? -from : from) + up];
  };
  for (int64_t row = 0; row < p.rows; ++row)
    for (int64_t at = 0; at < p.n; at += 64)
      for (int64_t j = 0; j < 32; ++j)
        p.codes[(row * p.step + at) / 2 + j] =
            uint8_t(code(row, at + j) | code(row, at + j + 32) << 4);
}

} // namespace nybble
