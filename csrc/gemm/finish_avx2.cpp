#include <immintrin.h>

#include "gemm/finish.hpp"
#include "gemm/micro.hpp"

namespace nybble {
namespace {

static_assert(kColumns % 8 == 0, "whole registers");

void begin(const int32_t* for_rows, const int32_t* for_columns, int32_t* acc) {
  for (int c = 0; c < kColumns; c += 8) {
    const __m256i column = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(for_columns + c));
    for (int r = 0; r < kRows; ++r)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(acc + r * kColumns + c),
                          _mm256_add_epi32(column, _mm256_set1_epi32(for_rows[r])));
  }
}

inline __m256 product(const int32_t* acc, __m256 scale_a, const float* scale_b) {
  const __m256i sum = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(acc));
  const __m256 scale = _mm256_mul_ps(scale_a, _mm256_loadu_ps(scale_b));
  return _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale);
}

void tile(const int32_t* acc, int rows, int columns, const float* scale_a, const float* scale_b,
          const float* bias, float* out, int64_t stride) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int r = 0; r < rows; ++r, acc += kColumns, out += stride) {
    const __m256 s = _mm256_set1_ps(scale_a[r]);
    for (int c = 0; c < columns; c += 8) {
      __m256 x = product(acc + c, s, scale_b + c);
      if (bias != nullptr) x = _mm256_add_ps(x, _mm256_loadu_ps(bias + c));
      if (columns - c >= 8)
        _mm256_storeu_ps(out + c, x);
      else
        _mm256_maskstore_ps(out + c, _mm256_cmpgt_epi32(_mm256_set1_epi32(columns - c), lane), x);
    }
  }
}

void block(const int32_t* acc, const float* scale_a, const float* scale_b, float* sum) {
  for (int r = 0; r < kRows; ++r) {
    const __m256 s = _mm256_set1_ps(scale_a[r]);
    for (int c = 0; c < kColumns; c += 8) {
      const int at = r * kColumns + c;
      const __m256 x = product(acc + at, s, scale_b + c);
      _mm256_storeu_ps(sum + at, _mm256_add_ps(_mm256_loadu_ps(sum + at), x));
    }
  }
}

} // namespace

const FinishKernels kFinishAvx2 = {begin, tile, block};

} // namespace nybble
