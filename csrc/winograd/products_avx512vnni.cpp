// The 16 Gemms of a block of tiles, with `vpdpbusd` and `vpdpwssd`.
//
// The 16 outputs of a panel are one register, so kTileGroup tiles (or 16 rows of a pair panel) are
// as many sums, all of them in registers. Nothing saturates: `flush` has no meaning here.
#include <immintrin.h>

#include <cstring>

#include "winograd/kernels.hpp"

namespace nybble {
namespace {

static_assert(kPanel == 16 && kTileGroup == 12, "the sums of a block fill the registers");

inline __m512i spread(const void* at) {
  int32_t word;
  std::memcpy(&word, at, 4);
  return _mm512_set1_epi32(word);
}

// m[tile][o] = the products of `groups` groups of 4 bytes; `stride` in bytes.
template <class Add>
inline void block(int64_t tiles, int64_t groups, const void* v_rows, int64_t stride,
                  const void* u_panel, int32_t* m, Add add) {
  for (int64_t t = 0; t < tiles; t += kTileGroup) {
    const auto* v = static_cast<const uint8_t*>(v_rows) + t * stride;
    const auto* u = static_cast<const uint8_t*>(u_panel);
    __m512i sum[kTileGroup];
    for (auto& s : sum)
      s = _mm512_setzero_si512();
    for (int64_t g = 0; g < groups; ++g, v += 4, u += 4 * kPanel) {
      const __m512i y = _mm512_loadu_si512(u);
#pragma GCC unroll 12
      for (int r = 0; r < kTileGroup; ++r)
        sum[r] = add(sum[r], spread(v + r * stride), y);
    }
    for (int r = 0; r < kTileGroup; ++r)
      _mm512_storeu_si512(m + (t + r) * kPanel, sum[r]);
  }
}

void bytes(int64_t tiles, int64_t groups, const uint8_t* v, int64_t tile_stride, const int8_t* u,
           int64_t, int32_t* m) {
  block(tiles, groups, v, tile_stride, u, m,
        [](__m512i sum, __m512i x, __m512i y) { return _mm512_dpbusd_epi32(sum, x, y); });
}

void words(int64_t tiles, int64_t groups, const int16_t* v, int64_t tile_stride, const int16_t* u,
           int32_t* m) {
  block(tiles, groups, v, tile_stride * 2, u, m,
        [](__m512i sum, __m512i x, __m512i y) { return _mm512_dpwssd_epi32(sum, y, x); });
}

void pairs(int64_t count, const int16_t* a, const int16_t* b, int32_t* m) {
  __m512i sum[kPanel];
  for (int r = 0; r < kPanel; ++r)
    sum[r] = _mm512_loadu_si512(m + r * kPanel);
  for (int64_t g = 0; g < count; ++g, a += 2 * kPanel, b += 2 * kPanel) {
    const __m512i y = _mm512_loadu_si512(b);
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r)
      sum[r] = _mm512_dpwssd_epi32(sum[r], y, spread(a + 2 * r));
  }
  for (int r = 0; r < kPanel; ++r)
    _mm512_storeu_si512(m + r * kPanel, sum[r]);
}

const WinogradProducts kProducts = {bytes, words, pairs};

} // namespace

const WinogradKernels kWinogradAvx512Vnni = {&kWinogradDataAvx2, &kWinogradWeightsAvx2, &kProducts,
                                             &kWinogradResultsAvx2};

} // namespace nybble
