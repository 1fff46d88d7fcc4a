// U = 2G w (2G)^T over a register of channels, and its panels.
#include <immintrin.h>

#include <cstring>

#include "winograd/kernels.hpp"

namespace nybble {
namespace {

struct Bytes {
  using T = int8_t;
  using R = __m256i;
  static constexpr int64_t lanes = 32;
  static R load(const T* at) { return _mm256_loadu_si256(reinterpret_cast<const R*>(at)); }
  static R add(R a, R b) { return _mm256_add_epi8(a, b); }
  static R sub(R a, R b) { return _mm256_sub_epi8(a, b); }
};

struct Words {
  using T = int16_t;
  using R = __m256i;
  static constexpr int64_t lanes = 16;
  static R load(const T* at) { return _mm256_loadu_si256(reinterpret_cast<const R*>(at)); }
  static R add(R a, R b) { return _mm256_add_epi16(a, b); }
  static R sub(R a, R b) { return _mm256_sub_epi16(a, b); }
};

struct HalfBytes {
  using T = int8_t;
  using R = __m128i;
  static constexpr int64_t lanes = 16;
  static R load(const T* at) { return _mm_loadu_si128(reinterpret_cast<const R*>(at)); }
  static R add(R a, R b) { return _mm_add_epi8(a, b); }
  static R sub(R a, R b) { return _mm_sub_epi8(a, b); }
};

// 2G times one row of three.
template <class Ops>
inline void line(typename Ops::R a, typename Ops::R b, typename Ops::R c, typename Ops::R out[4]) {
  const typename Ops::R ends = Ops::add(a, c);
  out[0] = Ops::add(a, a);
  out[1] = Ops::add(ends, b);
  out[2] = Ops::sub(ends, b);
  out[3] = Ops::add(c, c);
}

// U of `count` channels (at most a register) of one kernel; w points at the first of them.
template <class Ops>
inline void transform(const typename Ops::T* w, int64_t channels, int64_t count,
                      typename Ops::R u[16]) {
  using T = typename Ops::T;
  typename Ops::R taps[9], t[4][3], column[4];
  if (count >= Ops::lanes) {
    for (int i = 0; i < 9; ++i)
      taps[i] = Ops::load(w + i * channels);
  } else {
    for (int i = 0; i < 9; ++i) {
      alignas(32) T some[Ops::lanes] = {};
      std::memcpy(some, w + i * channels, size_t(count) * sizeof(T));
      taps[i] = Ops::load(some);
    }
  }
  for (int j = 0; j < 3; ++j) {
    line<Ops>(taps[j], taps[3 + j], taps[6 + j], column);
    for (int i = 0; i < 4; ++i)
      t[i][j] = column[i];
  }
  for (int i = 0; i < 4; ++i)
    line<Ops>(t[i][0], t[i][1], t[i][2], u + 4 * i);
}

// Eight rows of eight groups (32 bits) -> out[group * 16 + row].
inline void transpose(const __m256i* rows, int32_t* out) {
  __m256i a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_epi32(rows[i], rows[i + 1]);
    a[i + 1] = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
    b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
    b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
    b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    auto* low = reinterpret_cast<__m256i*>(out + i * kPanel);
    auto* high = reinterpret_cast<__m256i*>(out + (i + 4) * kPanel);
    _mm256_storeu_si256(low, _mm256_permute2x128_si256(b[i], b[i + 4], 0x20));
    _mm256_storeu_si256(high, _mm256_permute2x128_si256(b[i], b[i + 4], 0x31));
  }
}

template <class Ops>
void weights(const typename Ops::T* w, int64_t outputs, int64_t channels, int64_t position_stride,
             typename Ops::T* out) {
  using T = typename Ops::T;
  __m256i u[kPositions], rows[kPositions][kPanel];
  std::memset(rows, 0, sizeof(rows));
  for (int64_t c = 0; c < channels; c += Ops::lanes) {
    for (int64_t o = 0; o < outputs; ++o) {
      transform<Ops>(w + o * 9 * channels + c, channels, channels - c, u);
      for (int p = 0; p < kPositions; ++p)
        rows[p][o] = u[p];
    }
    // A register holds kGroupStep groups.
    T* const to = out + c * kPanel;
    for (int p = 0; p < kPositions; ++p) {
      auto* groups = reinterpret_cast<int32_t*>(to + p * position_stride);
      transpose(rows[p], groups);
      transpose(rows[p] + 8, groups + 8);
    }
  }
}

inline int turn(int i) { return i == 0 ? 3 : i == 3 ? 0 : i; }
inline int turned_position(int p) { return 4 * turn(p / 4) + turn(p % 4); }

void turned_words(const int16_t* w, int64_t kernels, int64_t channels, int64_t first,
                  int64_t position_stride, int16_t* out) {
  __m256i a[kPositions], b[kPositions];
  const int64_t padded = (kernels + 2 * kGroupStep - 1) / (2 * kGroupStep) * (2 * kGroupStep);
  for (int64_t k = 0; k < padded; k += 2) {
    const int16_t* from = w + k * 9 * channels + first;
    for (int p = 0; p < kPositions; ++p)
      a[p] = b[p] = _mm256_setzero_si256();
    if (k < kernels) transform<Words>(from, channels, channels - first, a);
    if (k + 1 < kernels) transform<Words>(from + 9 * channels, channels, channels - first, b);
    for (int p = 0; p < kPositions; ++p) {
      const int q = turned_position(p);
      const __m256i lo = _mm256_unpacklo_epi16(a[q], b[q]), hi = _mm256_unpackhi_epi16(a[q], b[q]);
      auto* to = reinterpret_cast<__m256i*>(out + p * position_stride + k * kPanel);
      _mm256_storeu_si256(to, _mm256_permute2x128_si256(lo, hi, 0x20));
      _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(lo, hi, 0x31));
    }
  }
}

void turned_bytes(const int8_t* w, int64_t kernels, int64_t channels, int64_t first,
                  int64_t position_stride, int8_t* out) {
  __m128i u[4][kPositions];
  const int64_t padded = (kernels + 4 * kGroupStep - 1) / (4 * kGroupStep) * (4 * kGroupStep);
  for (int64_t k = 0; k < padded; k += 4) {
    for (int i = 0; i < 4; ++i) {
      for (int p = 0; p < kPositions; ++p)
        u[i][p] = _mm_setzero_si128();
      if (k + i < kernels)
        transform<HalfBytes>(w + (k + i) * 9 * channels + first, channels, channels - first, u[i]);
    }
    for (int p = 0; p < kPositions; ++p) {
      const int q = turned_position(p);
      const __m128i lo0 = _mm_unpacklo_epi8(u[0][q], u[1][q]);
      const __m128i hi0 = _mm_unpackhi_epi8(u[0][q], u[1][q]);
      const __m128i lo1 = _mm_unpacklo_epi8(u[2][q], u[3][q]);
      const __m128i hi1 = _mm_unpackhi_epi8(u[2][q], u[3][q]);
      auto* to = reinterpret_cast<__m128i*>(out + p * position_stride + k * kPanel);
      _mm_storeu_si128(to, _mm_unpacklo_epi16(lo0, lo1));
      _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(lo0, lo1));
      _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(hi0, hi1));
      _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(hi0, hi1));
    }
  }
}

void sums(const int8_t* u, int64_t groups, int32_t* out) {
  const __m256i ones = _mm256_set1_epi16(1), unit = _mm256_set1_epi8(1);
  __m256i low = _mm256_setzero_si256(), high = low;
  for (int64_t g = 0; g < groups; ++g, u += 4 * kPanel) {
    const auto* from = reinterpret_cast<const __m256i*>(u);
    const __m256i a = _mm256_maddubs_epi16(unit, _mm256_loadu_si256(from));
    const __m256i b = _mm256_maddubs_epi16(unit, _mm256_loadu_si256(from + 1));
    low = _mm256_add_epi32(low, _mm256_madd_epi16(a, ones));
    high = _mm256_add_epi32(high, _mm256_madd_epi16(b, ones));
  }
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), high);
}

} // namespace

const WinogradWeights kWinogradWeightsAvx2 = {weights<Bytes>, weights<Words>, turned_bytes,
                                              turned_words, sums};

} // namespace nybble
