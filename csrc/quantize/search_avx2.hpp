// Rank of m among ascending thresholds, by bisection: the middle one, then tables of eight.
// kReaches is the comparison "m has reached the threshold", and with it what becomes of a NaN.
#pragma once

#include <immintrin.h>

namespace nybble {

template <int kBits, int kReaches = _CMP_GE_OQ>
struct Search {
  __m256 first, low, high, third, fourth;

  explicit Search(const float* t) {
    const int n = (1 << kBits) - 1, q = (n + 1) / 4;
    float three[8] = {}, four[8] = {};
    for (int i = 0; i < (1 << (kBits - 1)); ++i)
      four[i] = t[2 * i];
    for (int i = 0; kBits == 4 && i < 4; ++i)
      three[i] = t[4 * i + 1];
    first = _mm256_set1_ps(t[n / 2]);
    low = _mm256_set1_ps(t[q - 1]);
    high = _mm256_set1_ps(t[3 * q - 1]);
    third = _mm256_loadu_ps(three);
    fourth = _mm256_loadu_ps(four);
  }

  // Also tells which elements are in the upper half of the levels.
  inline __attribute__((always_inline)) __m256i rank(__m256 m, __m256* upper) const {
    const __m256 c1 = _mm256_cmp_ps(m, first, kReaches);
    const __m256 c2 = _mm256_cmp_ps(m, _mm256_blendv_ps(low, high, c1), kReaches);
    __m256i r = _mm256_sub_epi32(_mm256_and_si256(_mm256_castps_si256(c1), _mm256_set1_epi32(2)),
                                 _mm256_castps_si256(c2));
    if (kBits == 4) {
      const __m256 c3 = _mm256_cmp_ps(m, _mm256_permutevar8x32_ps(third, r), kReaches);
      r = _mm256_sub_epi32(_mm256_add_epi32(r, r), _mm256_castps_si256(c3));
    }
    const __m256 c4 = _mm256_cmp_ps(m, _mm256_permutevar8x32_ps(fourth, r), kReaches);
    *upper = c1;
    return _mm256_sub_epi32(_mm256_add_epi32(r, r), _mm256_castps_si256(c4));
  }
};

} // namespace nybble
