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

template <bool Bias>
inline __m256 finish(__m256i y, __m256 scale, __m256 bias) {
  const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srai_epi32(y, 2)), scale);
  return Bias ? _mm256_add_ps(value, bias) : value;
}

template <bool Stream>
inline void put(float* to, __m256 value) {
  if (Stream)
    _mm256_stream_ps(to, value);
  else
    _mm256_storeu_ps(to, value);
}

// Tiles that lie inside the image, and all 16 channels.
template <bool Bias, bool Stream>
void whole(const int32_t* m, int64_t stride, int64_t tiles, const WinogradEpilogue& e, float* out) {
  const __m256 scale0 = _mm256_loadu_ps(e.scale), scale1 = _mm256_loadu_ps(e.scale + 8);
  const __m256 none = _mm256_setzero_ps();
  const __m256 bias0 = Bias ? _mm256_loadu_ps(e.bias) : none;
  const __m256 bias1 = Bias ? _mm256_loadu_ps(e.bias + 8) : none;
  const int64_t pixel = e.pixel_stride;
  const int32_t* const plus = e.add;
  float *top = out, *bottom = top + e.row_stride;
  for (int64_t tile = 0; tile < tiles; ++tile, m += kPanel) {
    __m256i y[4];
    __m256 low[4];
    tile_sums(m, stride, plus, y);
    for (int k = 0; k < 4; ++k)
      low[k] = finish<Bias>(y[k], scale0, bias0);
    tile_sums(m + 8, stride, plus + 8, y);
    // Whole cache lines, one after the other.
    put<Stream>(top, low[0]);
    put<Stream>(top + 8, finish<Bias>(y[0], scale1, bias1));
    put<Stream>(top + pixel, low[1]);
    put<Stream>(top + pixel + 8, finish<Bias>(y[1], scale1, bias1));
    put<Stream>(bottom, low[2]);
    put<Stream>(bottom + 8, finish<Bias>(y[2], scale1, bias1));
    put<Stream>(bottom + pixel, low[3]);
    put<Stream>(bottom + pixel + 8, finish<Bias>(y[3], scale1, bias1));
    top += 2 * pixel, bottom += 2 * pixel;
  }
}

void output(const int32_t* m, int64_t position_stride, int64_t tiles, const WinogradEpilogue& e,
            float* out) {
  int64_t tile = 0;
  if (e.rows == 2 && e.channels == kPanel) {
    tile = e.columns / 2 < tiles ? e.columns / 2 : tiles;
    const bool stream = e.stream && reinterpret_cast<uintptr_t>(out) % 32 == 0 &&
                        e.row_stride % 8 == 0 && e.pixel_stride % 8 == 0;
    const auto run = e.bias != nullptr ? (stream ? whole<true, true> : whole<true, false>)
                                       : (stream ? whole<false, true> : whole<false, false>);
    run(m, position_stride, tile, e, out);
  }
  for (; tile < tiles; ++tile)
    for (int half = 0; half < kPanel && half < e.channels; half += 8) {
      __m256i y[4];
      tile_sums(m + tile * kPanel + half, position_stride, e.add + half, y);
      const __m256 scale = _mm256_loadu_ps(e.scale + half);
      for (int k = 0; k < 4; ++k) {
        const int64_t i = k / 2, x = 2 * tile + k % 2;
        if (i >= e.rows || x >= e.columns) continue;
        alignas(32) float some[8];
        _mm256_store_ps(some, e.bias != nullptr
                                  ? finish<true>(y[k], scale, _mm256_loadu_ps(e.bias + half))
                                  : finish<false>(y[k], scale, scale));
        float* const to = out + i * e.row_stride + x * e.pixel_stride + half;
        for (int64_t o = 0; o < 8 && o < e.channels - half; ++o)
          to[o] = some[o];
      }
    }
}

void flush() { _mm_sfence(); }

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

const WinogradResults kWinogradResultsAvx2 = {output, flush, grad_weight};

} // namespace nybble
