// A^T M A and (2G)^T M 2G, eight sums at a time.
#include <immintrin.h>

#include "winograd/kernels.hpp"

namespace nybble {
namespace {

inline __m256i load(const int32_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
inline __m256i add(__m256i a, __m256i b) { return _mm256_add_epi32(a, b); }
inline __m256i sub(__m256i a, __m256i b) { return _mm256_sub_epi32(a, b); }

// 4 x the results of one tile, eight channels.
inline void tile_sums(const int32_t* m, int64_t stride, const int32_t* plus, __m256i y[4]) {
  __m256i top[4], bottom[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m256i a = load(m + j * stride), b = load(m + (4 + j) * stride),
                  c = load(m + (8 + j) * stride), d = load(m + (12 + j) * stride);
    top[j] = add(a, add(b, c));
    bottom[j] = sub(b, add(c, d));
  }
  y[0] = add(load(plus), add(top[0], add(top[1], top[2])));
  y[1] = add(load(plus + kPanel), sub(top[1], add(top[2], top[3])));
  y[2] = add(load(plus + 2 * kPanel), add(bottom[0], add(bottom[1], bottom[2])));
  y[3] = add(load(plus + 3 * kPanel), sub(bottom[1], add(bottom[2], bottom[3])));
}

void output(const int32_t* m, int64_t position_stride, int64_t tiles, const WinogradEpilogue& e,
            float* out) {
  for (int64_t tile = 0; tile < tiles; ++tile, m += kPanel)
    for (int half = 0; half < kPanel && half < e.channels; half += 8) {
      __m256i y[4];
      tile_sums(m + half, position_stride, e.add + half, y);
      const __m256 scale = _mm256_loadu_ps(e.scale + half);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const int64_t i = k / 2, x = 2 * tile + k % 2;
        if (i >= e.rows || x >= e.columns) continue;
        __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(y[k], 2)), scale);
        if (e.bias != nullptr) value = _mm256_add_ps(value, _mm256_loadu_ps(e.bias + half));
        float* const to = out + i * e.row_stride + x * e.pixel_stride + half;
        if (e.channels - half >= 8) {
          _mm256_storeu_ps(to, value);
        } else {
          alignas(32) float some[8];
          _mm256_store_ps(some, value);
          for (int64_t o = 0; o < e.channels - half; ++o)
            to[o] = some[o];
        }
      }
    }
}

inline void three(__m256i a, __m256i b, __m256i c, __m256i d, __m256i out[3]) {
  const __m256i both = add(b, c);
  out[0] = add(add(a, a), both);
  out[1] = sub(b, c);
  out[2] = add(add(d, d), both);
}

void grad_weight(const int32_t* m, int64_t position_stride, int32_t* out) {
  for (int row = 0; row < kPanel; ++row) {
    __m256i dw[2][9];
    for (int half = 0; half < 2; ++half) {
      __m256i t[3][4], column[3];
      for (int j = 0; j < 4; ++j) {
        const int32_t* at = m + row * kPanel + 8 * half + j * position_stride;
        three(load(at), load(at + 4 * position_stride), load(at + 8 * position_stride),
              load(at + 12 * position_stride), column);
        for (int i = 0; i < 3; ++i)
          t[i][j] = column[i];
      }
      for (int i = 0; i < 3; ++i)
        three(t[i][0], t[i][1], t[i][2], t[i][3], dw[half] + 3 * i);
    }
    for (int k = 0; k < 9; ++k) {
      // kPairOrder: the halves hold channels 0-3, 8-11 and 4-7, 12-15.
      const __m256i low = _mm256_permute2x128_si256(dw[0][k], dw[1][k], 0x20);
      const __m256i high = _mm256_permute2x128_si256(dw[0][k], dw[1][k], 0x31);
      auto* to = reinterpret_cast<__m256i*>(out + (kPairOrder[row] * 9 + k) * kPanel);
      _mm256_storeu_si256(to, _mm256_srai_epi32(low, 2));
      _mm256_storeu_si256(to + 1, _mm256_srai_epi32(high, 2));
    }
  }
}

} // namespace

const WinogradResults kWinogradResultsAvx2 = {output, grad_weight};

} // namespace nybble
