// The 16 Gemms of a block of tiles.
#include <immintrin.h>

#include <cstring>

#include "winograd/kernels.hpp"

namespace nybble {
namespace {

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

inline __m256i spread(const void* at) {
  int32_t word;
  std::memcpy(&word, at, 4);
  return _mm256_set1_epi32(word);
}

inline void put(int32_t* at, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }

// Three tiles x 16 outputs: six 16-bit and six 32-bit sums stay in registers.
void bytes3(int64_t groups, const uint8_t* v, int64_t stride, const int8_t* u, int64_t flush,
            int32_t* m) {
  const __m256i ones = _mm256_set1_epi16(1);
  const uint8_t *v0 = v, *v1 = v + stride, *v2 = v + 2 * stride;
  __m256i w00 = _mm256_setzero_si256(), w01 = w00, w10 = w00, w11 = w00, w20 = w00, w21 = w00;
  for (int64_t left = groups; left > 0; left -= flush) {
    __m256i s00 = _mm256_setzero_si256(), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
    const int64_t n = left < flush ? left : flush;
    for (int64_t g = 0; g < n; ++g, u += 64, v0 += 4, v1 += 4, v2 += 4) {
      const __m256i a = load(u), b = load(u + 32);
      __m256i x = spread(v0);
      s00 = _mm256_add_epi16(s00, _mm256_maddubs_epi16(x, a));
      s01 = _mm256_add_epi16(s01, _mm256_maddubs_epi16(x, b));
      x = spread(v1);
      s10 = _mm256_add_epi16(s10, _mm256_maddubs_epi16(x, a));
      s11 = _mm256_add_epi16(s11, _mm256_maddubs_epi16(x, b));
      x = spread(v2);
      s20 = _mm256_add_epi16(s20, _mm256_maddubs_epi16(x, a));
      s21 = _mm256_add_epi16(s21, _mm256_maddubs_epi16(x, b));
    }
    w00 = _mm256_add_epi32(w00, _mm256_madd_epi16(s00, ones));
    w01 = _mm256_add_epi32(w01, _mm256_madd_epi16(s01, ones));
    w10 = _mm256_add_epi32(w10, _mm256_madd_epi16(s10, ones));
    w11 = _mm256_add_epi32(w11, _mm256_madd_epi16(s11, ones));
    w20 = _mm256_add_epi32(w20, _mm256_madd_epi16(s20, ones));
    w21 = _mm256_add_epi32(w21, _mm256_madd_epi16(s21, ones));
  }
  put(m, w00), put(m + 8, w01);
  put(m + 16, w10), put(m + 24, w11);
  put(m + 32, w20), put(m + 40, w21);
}

void bytes(int64_t tiles, int64_t groups, const uint8_t* v, int64_t tile_stride, const int8_t* u,
           int64_t flush, int32_t* m) {
  for (int64_t t = 0; t < tiles; t += 3)
    bytes3(groups, v + t * tile_stride, tile_stride, u, flush, m + t * kPanel);
}

void words(int64_t tiles, int64_t groups, const int16_t* v, int64_t tile_stride, const int16_t* u,
           int32_t* m) {
  for (int64_t t = 0; t < tiles; t += 4) {
    const int16_t* at = v + t * tile_stride;
    const int16_t* from = u;
    __m256i s[4][2];
    for (auto& row : s)
      row[0] = row[1] = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; ++g, at += 2, from += 32) {
      const __m256i a = load(from), b = load(from + 16);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m256i x = spread(at + r * tile_stride);
        s[r][0] = _mm256_add_epi32(s[r][0], _mm256_madd_epi16(x, a));
        s[r][1] = _mm256_add_epi32(s[r][1], _mm256_madd_epi16(x, b));
      }
    }
    for (int r = 0; r < 4; ++r) {
      put(m + (t + r) * kPanel, s[r][0]);
      put(m + (t + r) * kPanel + 8, s[r][1]);
    }
  }
}

void pairs(int64_t count, const int16_t* a_panel, const int16_t* b_panel, int32_t* m) {
  for (int r0 = 0; r0 < kPanel; r0 += 4) {
    const int16_t *x = a_panel + 2 * r0, *y = b_panel;
    __m256i s[4][2];
    for (int r = 0; r < 4; ++r) {
      s[r][0] = load(m + (r0 + r) * kPanel);
      s[r][1] = load(m + (r0 + r) * kPanel + 8);
    }
    for (int64_t g = 0; g < count; ++g, x += 32, y += 32) {
      const __m256i a = load(y), b = load(y + 16);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m256i w = spread(x + 2 * r);
        s[r][0] = _mm256_add_epi32(s[r][0], _mm256_madd_epi16(w, a));
        s[r][1] = _mm256_add_epi32(s[r][1], _mm256_madd_epi16(w, b));
      }
    }
    for (int r = 0; r < 4; ++r) {
      put(m + (r0 + r) * kPanel, s[r][0]);
      put(m + (r0 + r) * kPanel + 8, s[r][1]);
    }
  }
}

} // namespace

const WinogradProducts kWinogradProductsAvx2 = {bytes, words, pairs};

} // namespace nybble
