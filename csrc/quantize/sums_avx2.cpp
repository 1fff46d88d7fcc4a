#include <immintrin.h>

#include "quantize/sums.hpp"

#define NYBBLE_INLINE inline __attribute__((always_inline))

namespace nybble {
namespace {

template <int kCount>
NYBBLE_INLINE __m256 tree(__m256* v) {
  for (int count = kCount; count > 1; count = (count + 1) / 2) {
    for (int i = 0; i < count / 2; ++i)
      v[i] = _mm256_add_ps(v[2 * i], v[2 * i + 1]);
    if (count % 2) v[count / 2] = v[count - 1];
  }
  return v[0];
}

template <int kCount>
void rows_of(const float* const* from, float* out) {
  for (int lane = 0; lane < kLanes; lane += 8) {
    __m256 v[kCount];
    for (int i = 0; i < kCount; ++i)
      v[i] = _mm256_loadu_ps(from[i] + lane);
    _mm256_storeu_ps(out + lane, tree<kCount>(v));
  }
}

template <int kCount>
uint32_t moments_of(const float* const* from, float* squares, float* magnitudes) {
  const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  __m256i top = _mm256_setzero_si256();
  for (int lane = 0; lane < kLanes; lane += 8) {
    __m256 v[kCount], m[kCount];
    for (int i = 0; i < kCount; ++i) {
      const __m256 x = _mm256_loadu_ps(from[i] + lane);
      v[i] = _mm256_mul_ps(x, x);
      m[i] = _mm256_and_ps(x, no_sign);
      top = _mm256_max_epi32(top, _mm256_castps_si256(m[i]));
    }
    _mm256_storeu_ps(squares + lane, tree<kCount>(v));
    _mm256_storeu_ps(magnitudes + lane, tree<kCount>(m));
  }
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), top);
  uint32_t out = 0;
  for (uint32_t lane : lanes)
    out = lane > out ? lane : out;
  return out;
}

void rows(const float* const* from, int count, float* out) {
  switch (count) {
  case 1:
    return rows_of<1>(from, out);
  case 2:
    return rows_of<2>(from, out);
  case 3:
    return rows_of<3>(from, out);
  case 4:
    return rows_of<4>(from, out);
  case 5:
    return rows_of<5>(from, out);
  case 6:
    return rows_of<6>(from, out);
  case 7:
    return rows_of<7>(from, out);
  default:
    return rows_of<8>(from, out);
  }
}

uint32_t moments(const float* const* from, int count, float* squares, float* magnitudes) {
  switch (count) {
  case 1:
    return moments_of<1>(from, squares, magnitudes);
  case 2:
    return moments_of<2>(from, squares, magnitudes);
  case 3:
    return moments_of<3>(from, squares, magnitudes);
  case 4:
    return moments_of<4>(from, squares, magnitudes);
  case 5:
    return moments_of<5>(from, squares, magnitudes);
  case 6:
    return moments_of<6>(from, squares, magnitudes);
  case 7:
    return moments_of<7>(from, squares, magnitudes);
  default:
    return moments_of<8>(from, squares, magnitudes);
  }
}

void add(const float* a, const float* b, float* out) {
  for (int lane = 0; lane < kLanes; lane += 8)
    _mm256_storeu_ps(out + lane,
                     _mm256_add_ps(_mm256_loadu_ps(a + lane), _mm256_loadu_ps(b + lane)));
}

void fold(float* lanes, int64_t n) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    if (half >= n) continue; // that would add zeros
    if (half >= 8)
      for (int64_t i = 0; i < half; i += 8)
        _mm256_storeu_ps(lanes + i, _mm256_add_ps(_mm256_loadu_ps(lanes + i),
                                                  _mm256_loadu_ps(lanes + i + half)));
    else
      for (int64_t i = 0; i < half; ++i)
        lanes[i] = lanes[i] + lanes[i + half];
  }
}

// All ones in every lane whose bit is set in the byte.
NYBBLE_INLINE __m256 lanes_of(uint8_t byte) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_castsi256_ps(
      _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi8(char(byte)), bit), bit));
}

template <bool kTwo>
NYBBLE_INLINE void sides_of(__m256 x, __m256 inside, const int8_t* side8, float* above,
                            float* below) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(side8));
  __m256 side = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
  side = _mm256_andnot_ps(inside, side);
  const __m256 zero = _mm256_setzero_ps();
  if (kTwo) {
    _mm256_storeu_ps(above, _mm256_mul_ps(_mm256_max_ps(side, zero), x));
    _mm256_storeu_ps(below, _mm256_mul_ps(_mm256_min_ps(side, zero), x));
  } else {
    _mm256_storeu_ps(above, _mm256_mul_ps(side, x));
  }
}

template <bool kCodes, bool kTwo>
void masked_row(float* dx, int64_t n, const uint8_t* mask, const uint8_t* codes,
                const int8_t* sides, float* above, float* below) {
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256 one = _mm256_set1_ps(1.0f);
  __m256i table = _mm256_setzero_si256();
  if (kCodes)
    table = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(sides)));
  alignas(32) int8_t side[64];
  int64_t at = 0;
  for (; at < n; at += 64) {
    if (kCodes) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + at / 2));
      auto* to = reinterpret_cast<__m256i*>(side);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
      _mm256_store_si256(to, _mm256_shuffle_epi8(table, _mm256_and_si256(both, nibble)));
      _mm256_store_si256(to + 1, _mm256_shuffle_epi8(table, high));
    }
    if (at + 64 > n) break;
    for (int j = 0; j < 64; j += 8) {
      const __m256 x = _mm256_loadu_ps(dx + at + j);
      const __m256 inside = lanes_of(mask[(at + j) / 8]);
      if (kCodes)
        sides_of<kTwo>(x, inside, side + j, above + at + j, kTwo ? below + at + j : nullptr);
      _mm256_storeu_ps(dx + at + j, _mm256_mul_ps(x, _mm256_and_ps(inside, one)));
    }
  }
  for (int64_t i = at; i < n; ++i) {
    const bool in = mask[i / 8] >> (i % 8) & 1;
    if (kCodes) {
      const int s = in ? 0 : side[i - at];
      above[i] = float(kTwo && s < 0 ? 0 : s) * dx[i];
      if (kTwo) below[i] = float(s < 0 ? s : 0) * dx[i];
    }
    dx[i] = dx[i] * (in ? 1.0f : 0.0f);
  }
  for (int64_t i = n; kCodes && i < kLanes; ++i) {
    above[i] = 0.0f;
    if (kTwo) below[i] = 0.0f;
  }
}

void masked(float* dx, int64_t n, const uint8_t* mask, const uint8_t* codes, const int8_t* sides,
            float* above, float* below) {
  if (codes == nullptr)
    masked_row<false, false>(dx, n, mask, codes, sides, above, below);
  else if (below == nullptr)
    masked_row<true, false>(dx, n, mask, codes, sides, above, below);
  else
    masked_row<true, true>(dx, n, mask, codes, sides, above, below);
}

} // namespace

const SumKernels kSumAvx2 = {rows, moments, add, fold, masked};

} // namespace nybble
