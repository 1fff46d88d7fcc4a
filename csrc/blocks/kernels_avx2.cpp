#include <immintrin.h>

#include "blocks/loops.hpp"

namespace nybble {
namespace {

struct Eight {
  static constexpr int kLanes = 8;
  __m256 v;
  static Eight load(const float* at) { return {_mm256_loadu_ps(at)}; }
  static Eight set(float x) { return {_mm256_set1_ps(x)}; }
  static Eight strided(const float* at, int64_t step) {
    return {_mm256_setr_ps(at[0], at[step], at[2 * step], at[3 * step], at[4 * step], at[5 * step],
                           at[6 * step], at[7 * step])};
  }
  static Eight from24(const int32_t* at) {
    const __m256i drawn = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    return {_mm256_mul_ps(_mm256_cvtepi32_ps(drawn), _mm256_set1_ps(0x1p-24f))};
  }
  void store(float* at) const { _mm256_storeu_ps(at, v); }
  void store_strided(float* at, int64_t step) const {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, v);
    for (int i = 0; i < 8; ++i)
      at[i * step] = lanes[i];
  }
};
inline Eight operator+(Eight a, Eight b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Eight operator-(Eight a, Eight b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Eight operator*(Eight a, Eight b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Eight operator/(Eight a, Eight b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Eight min(Eight a, Eight b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Eight max(Eight a, Eight b) { return {_mm256_max_ps(a.v, b.v)}; }
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

const BlockKernels kBlockAvx2 = {tops, Loops<Eight>::scaled, Loops<Eight>::nearest,
                                 Loops<Eight>::stochastic, Loops<Eight>::turn};

} // namespace nybble
