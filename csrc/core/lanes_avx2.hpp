// Eight floats as a type of lanes: lanes.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

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

} // namespace
} // namespace nybble
