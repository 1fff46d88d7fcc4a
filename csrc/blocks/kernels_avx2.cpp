#include <immintrin.h>

#include "blocks/loops.hpp"
#include "core/lanes_avx2.hpp"

namespace nybble {
namespace {

inline Eight magnitude(Eight x) {
  return {_mm256_and_ps(x.v, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)))};
}
inline Eight with_sign(Eight m, Eight x) {
  return {_mm256_or_ps(m.v, _mm256_and_ps(x.v, _mm256_set1_ps(-0.0f)))};
}
inline Eight reached(Eight x, Eight t, Eight d) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.v, t.v, _CMP_GE_OQ), d.v)};
}
inline Eight below(Eight x, Eight t, Eight d) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.v, t.v, _CMP_LT_OQ), d.v)};
}
inline Eight known(Eight x, Eight y, Eight z) {
  return {_mm256_blendv_ps(z.v, y.v, _mm256_cmp_ps(x.v, x.v, _CMP_ORD_Q))};
}

// The maxima of runs of whole registers, and of numbers beside one another.
void tops(const float* x, int64_t n, int64_t run, uint32_t* tops) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  const auto bits = [&](int64_t j) {
    const auto* at = reinterpret_cast<const __m256i*>(x + j);
    return _mm256_and_si256(_mm256_loadu_si256(at), mask);
  };
  if (run == 1) {
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
      auto* to = reinterpret_cast<__m256i*>(tops + j);
      _mm256_storeu_si256(to, _mm256_max_epi32(_mm256_loadu_si256(to), bits(j)));
    }
    return Loops<Lane>::tops(x + j, n - j, 1, tops + j);
  }
  for (int64_t start = 0; start < n; start += run, ++tops) {
    const int64_t stop = std::min(start + run, n);
    __m256i top = _mm256_setzero_si256();
    int64_t j = start;
    for (; j + 8 <= stop; j += 8)
      top = _mm256_max_epi32(top, bits(j));
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    *tops = std::max(*tops, uint32_t(_mm_cvtsi128_si32(m)));
    if (j == stop) continue;
    Loops<Lane>::tops(x + j, stop - j, run, tops);
  }
}

} // namespace

const BlockKernels kBlockAvx2 = {tops,
                                 Loops<Eight>::scaled,
                                 Loops<Eight>::nearest,
                                 Loops<Eight>::stochastic,
                                 Loops<Eight>::turn,
                                 Loops<Eight>::turn_strided};

} // namespace nybble
