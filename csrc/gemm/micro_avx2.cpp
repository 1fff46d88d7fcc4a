// Intrinsics without register blocking by hand: the straightforward form of micro.hpp's loops.
#include <immintrin.h>

#include <cstring>

#include "gemm/finish.hpp"
#include "gemm/micro.hpp"
#include "gemm/panels.hpp"

namespace nybble {
namespace {

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

inline __m256i spread(const void* at) {
  int32_t word;
  std::memcpy(&word, at, 4);
  return _mm256_set1_epi32(word);
}

void add_to(int32_t* acc, __m256i sum) {
  auto* to = reinterpret_cast<__m256i*>(acc);
  _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), sum));
}

template <bool UnsignedA>
void bytes(int64_t groups, const void* a_panel, const void* b_panel, int64_t flush, int32_t* acc) {
  const auto* a = static_cast<const uint8_t*>(a_panel);
  const auto* b = static_cast<const uint8_t*>(b_panel);
  const __m256i ones = _mm256_set1_epi16(1);
  while (groups > 0) {
    const int64_t n = groups < flush ? groups : flush;
    __m256i sum[kRows][2];
    for (auto& row : sum)
      row[0] = row[1] = _mm256_setzero_si256();
    for (int64_t g = 0; g < n; ++g, a += kRows * 4, b += kColumns * 4) {
      const __m256i b0 = load(b), b1 = load(b + 32);
      for (int r = 0; r < kRows; ++r) {
        const __m256i x = spread(a + 4 * r);
        sum[r][0] = _mm256_add_epi16(sum[r][0], UnsignedA ? _mm256_maddubs_epi16(x, b0)
                                                          : _mm256_maddubs_epi16(b0, x));
        sum[r][1] = _mm256_add_epi16(sum[r][1], UnsignedA ? _mm256_maddubs_epi16(x, b1)
                                                          : _mm256_maddubs_epi16(b1, x));
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int h = 0; h < 2; ++h)
        add_to(acc + r * kColumns + 8 * h, _mm256_madd_epi16(sum[r][h], ones));
    groups -= n;
  }
}

void u8s8(int64_t groups, const uint8_t* a, const int8_t* b, int64_t flush, int32_t* acc) {
  bytes<true>(groups, a, b, flush, acc);
}

void s8u8(int64_t groups, const int8_t* a, const uint8_t* b, int64_t flush, int32_t* acc) {
  bytes<false>(groups, a, b, flush, acc);
}

void s16(int64_t groups, const int16_t* a, const int16_t* b, int32_t* acc) {
  __m256i sum[kRows][2];
  for (auto& row : sum)
    row[0] = row[1] = _mm256_setzero_si256();
  for (int64_t g = 0; g < groups; ++g, a += kRows * 2, b += kColumns * 2) {
    const __m256i b0 = load(b), b1 = load(b + 16);
    for (int r = 0; r < kRows; ++r) {
      const __m256i x = spread(a + 2 * r);
      sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(x, b0));
      sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(x, b1));
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int h = 0; h < 2; ++h)
      add_to(acc + r * kColumns + 8 * h, sum[r][h]);
}

} // namespace

const GemmKernels kGemmAvx2 = {u8s8, s8u8, s16, &kPanelsAvx2, &kFinishAvx2};

} // namespace nybble
