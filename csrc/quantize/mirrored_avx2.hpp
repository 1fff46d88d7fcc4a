// Pack rules for tables whose negative half mirrors the positive one: half of the search, then the
// sign. The codes are those of the rules for any table.
#pragma once

#include <cstring>

#include "quantize/pack.hpp"
#include "quantize/registers_avx2.hpp"
#include "quantize/search_avx2.hpp"
#include "quantize/thresholds.hpp"

namespace nybble {
namespace {

// 16 levels without zero whose negative half mirrors the positive one, ties included: half of the
// thresholds, then the sign. A NaN is not reached by `rank`'s numbers: it reaches all, and is
// negative, so that it comes out as the lowest level.
struct Mirrored {
  static constexpr int kOutputs = 1;
  static constexpr bool kShift = false;
  __m256 zero;
  Search<3, _CMP_NLT_UQ> search;
  __m256i table;

  explicit Mirrored(const ThresholdRule& rule)
      : zero(_mm256_setzero_ps()), search(rule.thresholds + 8), table(table16(rule.table)) {}

  NYBBLE_INLINE void codes(const __m256* y, const int32_t*, __m256i* out) const {
    __m256i r[4];
    __m256 upper;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256i m = search.rank(_mm256_castsi256_ps(magnitude_bits(bits(y[j]))), &upper);
      const __m256 negative = _mm256_cmp_ps(y[j], zero, _CMP_NGE_UQ);
      r[j] = _mm256_xor_si256(_mm256_or_si256(m, _mm256_set1_epi32(8)), bits(negative));
    }
    const __m256i rank = _mm256_and_si256(pack_order(r[0], r[1], r[2], r[3]), _mm256_set1_epi8(15));
    out[0] = _mm256_shuffle_epi8(table, rank);
  }
};

// 15 levels, zero in their middle and the negative ones mirroring the positive ones. The lower
// neighbour of a negative y is the one of larger magnitude, from which y is as far as |y| is.
struct StochasticMirrored {
  static constexpr int kOutputs = 1;
  static constexpr bool kShift = false;
  __m256 zero, most, level, width;
  Search<3> search;
  __m256i table;

  struct Upper { // the levels 0, 1, .. 7 of the positive half
    float level[8], thresholds[7], width[8];
    explicit Upper(const StochasticRule& rule) {
      const uint32_t nan_bits = 0x7fc00000u;
      std::memcpy(level, rule.levels + 7, sizeof level);
      std::memcpy(thresholds, level + 1, sizeof thresholds);
      std::memcpy(&thresholds[6], &nan_bits, 4); // the top one is reached from below
      for (int i = 0; i < 8; ++i)
        width[i] = i < 7 ? level[i + 1] - level[i] : 1.0f;
    }
  };

  static bool fits(const StochasticRule& rule) {
    if (rule.magnitude || rule.count != 15 || rule.zero != 0.0f) return false;
    for (int k = 0; k <= 7; ++k)
      if (rule.levels[7 - k] != -rule.levels[7 + k]) return false;
    return true;
  }

  explicit StochasticMirrored(const StochasticRule& rule) : StochasticMirrored(rule, Upper(rule)) {}
  StochasticMirrored(const StochasticRule& rule, const Upper& upper)
      : zero(_mm256_setzero_ps()), most(_mm256_set1_ps(upper.level[7])),
        level(_mm256_loadu_ps(upper.level)), width(_mm256_loadu_ps(upper.width)),
        search(upper.thresholds), table(table16(rule.table)) {}

  NYBBLE_INLINE void codes(const __m256* y, const int32_t* random, __m256i* out) const {
    __m256i rank[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      __m256 upper;
      // A NaN becomes the lowest level: negative, and at the top.
      const __m256i negative = bits(_mm256_cmp_ps(y[j], zero, _CMP_NGE_UQ));
      const __m256 m = _mm256_min_ps(_mm256_castsi256_ps(magnitude_bits(bits(y[j]))), most);
      const __m256i below = search.rank(m, &upper);
      const __m256i from = _mm256_sub_epi32(below, negative);
      const __m256 away = _mm256_sub_ps(m, _mm256_permutevar8x32_ps(level, from));
      const __m256 part = _mm256_div_ps(_mm256_castsi256_ps(magnitude_bits(bits(away))),
                                        _mm256_permutevar8x32_ps(width, below));
      const __m256i drawn = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(random + 8 * j));
      const __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(drawn), _mm256_set1_ps(0x1p-24f));
      const __m256i up = bits(_mm256_cmp_ps(u, part, _CMP_LT_OQ));
      // The signed level is +-from; the upper neighbour is one above it.
      const __m256i signed_from = _mm256_sub_epi32(_mm256_xor_si256(from, negative), negative);
      rank[j] = _mm256_sub_epi32(signed_from, up);
    }
    const __m256i all = pack_order(rank[0], rank[1], rank[2], rank[3]);
    out[0] = _mm256_shuffle_epi8(table, _mm256_add_epi8(all, _mm256_set1_epi8(7)));
  }
};

} // namespace
} // namespace nybble
