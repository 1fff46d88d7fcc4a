// B^T d B and A dy A^T over 32 (bytes) or 16 (words) channels at a time.
#include <immintrin.h>

#include "winograd/kernels.hpp"

namespace nybble {
namespace {

struct Bytes {
  static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi8(a, b); }
  static __m256i sub(__m256i a, __m256i b) { return _mm256_sub_epi8(a, b); }
};

struct Words {
  static __m256i add(__m256i a, __m256i b) { return _mm256_add_epi16(a, b); }
  static __m256i sub(__m256i a, __m256i b) { return _mm256_sub_epi16(a, b); }
};

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline void store(void* at, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(at), x); }

// Column `at` of four rows, transformed downwards.
template <class Ops, class T>
inline void column(const T* const* rows, int64_t at, __m256i t[4]) {
  const __m256i d0 = load(rows[0] + at), d1 = load(rows[1] + at), d2 = load(rows[2] + at),
                d3 = load(rows[3] + at);
  t[0] = Ops::sub(d0, d2);
  t[1] = Ops::add(d1, d2);
  t[2] = Ops::sub(d2, d1);
  t[3] = Ops::sub(d1, d3);
}

template <bool Offset, class Ops, class T>
void data(const T* const* rows, int64_t tiles, int64_t channels, __m256i sums, __m256i differences,
          int64_t tile_stride, int64_t position_stride, T* v) {
  constexpr int64_t lanes = 32 / sizeof(T);
  for (int64_t c = 0; c < channels; c += lanes) {
    // The right half of a tile is the left half of the next one.
    __m256i left[2][4], right[2][4];
    column<Ops>(rows, c, left[0]);
    column<Ops>(rows, c + channels, left[1]);
    T* to = v + c;
    int64_t at = c + 2 * channels;
    for (int64_t tile = 0; tile < tiles; ++tile, at += 2 * channels, to += tile_stride) {
      column<Ops>(rows, at, right[0]);
      column<Ops>(rows, at + channels, right[1]);
      for (int i = 0; i < 4; ++i) {
        T* const out = to + 4 * i * position_stride;
        __m256i y[4] = {Ops::sub(left[0][i], right[0][i]), Ops::add(left[1][i], right[0][i]),
                        Ops::sub(right[0][i], left[1][i]), Ops::sub(left[1][i], right[1][i])};
        for (int j = 0; j < 4; ++j) {
          if (Offset) y[j] = Ops::add(y[j], i == 1 && j == 1 ? sums : differences);
          store(out + j * position_stride, y[j]);
        }
        left[0][i] = right[0][i], left[1][i] = right[1][i];
      }
    }
  }
}

void data_bytes(const int8_t* const* rows, int64_t tiles, int64_t channels, uint8_t sums,
                uint8_t differences, int64_t tile_stride, int64_t position_stride, uint8_t* v) {
  data<true, Bytes>(rows, tiles, channels, _mm256_set1_epi8(char(sums)),
                    _mm256_set1_epi8(char(differences)), tile_stride, position_stride,
                    reinterpret_cast<int8_t*>(v));
}

void data_words(const int16_t* const* rows, int64_t tiles, int64_t channels, int64_t tile_stride,
                int64_t position_stride, int16_t* v) {
  const __m256i zero = _mm256_setzero_si256();
  data<false, Words>(rows, tiles, channels, zero, zero, tile_stride, position_stride, v);
}

inline void store_pair(int16_t* to, __m256i first, __m256i second) {
  store(to, _mm256_unpacklo_epi16(first, second));
  store(to + 16, _mm256_unpackhi_epi16(first, second));
}

// Row i of B^T d at one column.
inline __m256i down(const int16_t* const* rows, int i, int64_t at) {
  switch (i) {
  case 0:
    return Words::sub(load(rows[0] + at), load(rows[2] + at));
  case 1:
    return Words::add(load(rows[1] + at), load(rows[2] + at));
  case 2:
    return Words::sub(load(rows[2] + at), load(rows[1] + at));
  default:
    return Words::sub(load(rows[1] + at), load(rows[3] + at));
  }
}

void pairs_data(const int16_t* const* rows, int64_t pairs, int64_t channels, int64_t panel_stride,
                int64_t position_stride, int16_t* out) {
  for (int64_t c = 0; c < channels; c += 16) {
    int16_t* to = out + c / 16 * panel_stride;
    int64_t at = c;
    for (int64_t pair = 0; pair < pairs; ++pair, at += 4 * channels, to += 32)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        __m256i t[6];
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j)
          t[j] = down(rows, i, at + j * channels);
        int16_t* const p = to + 4 * i * position_stride;
        store_pair(p, Words::sub(t[0], t[2]), Words::sub(t[2], t[4]));
        store_pair(p + position_stride, Words::add(t[1], t[2]), Words::add(t[3], t[4]));
        store_pair(p + 2 * position_stride, Words::sub(t[2], t[1]), Words::sub(t[4], t[3]));
        store_pair(p + 3 * position_stride, Words::sub(t[1], t[3]), Words::sub(t[3], t[5]));
      }
  }
}

inline __m256i grad_down(const int16_t* const* rows, int i, int64_t at) {
  switch (i) {
  case 0:
    return load(rows[0] + at);
  case 1:
    return Words::add(load(rows[0] + at), load(rows[1] + at));
  case 2:
    return Words::sub(load(rows[0] + at), load(rows[1] + at));
  default:
    return Words::sub(_mm256_setzero_si256(), load(rows[1] + at));
  }
}

void pairs_grad(const int16_t* const* rows, int64_t pairs, int64_t channels, int64_t panel_stride,
                int64_t position_stride, int16_t* out) {
  const __m256i zero = _mm256_setzero_si256();
  for (int64_t c = 0; c < channels; c += 16) {
    int16_t* to = out + c / 16 * panel_stride;
    int64_t at = c;
    for (int64_t pair = 0; pair < pairs; ++pair, at += 4 * channels, to += 32)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        __m256i t[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
          t[j] = grad_down(rows, i, at + j * channels);
        int16_t* const p = to + 4 * i * position_stride;
        store_pair(p, t[0], t[2]);
        store_pair(p + position_stride, Words::add(t[0], t[1]), Words::add(t[2], t[3]));
        store_pair(p + 2 * position_stride, Words::sub(t[0], t[1]), Words::sub(t[2], t[3]));
        store_pair(p + 3 * position_stride, Words::sub(zero, t[1]), Words::sub(zero, t[3]));
      }
  }
}

} // namespace

const WinogradData kWinogradDataAvx2 = {data_bytes, data_words, pairs_data, pairs_grad};

const WinogradKernels kWinogradAvx2 = {&kWinogradDataAvx2, &kWinogradWeightsAvx2,
                                       &kWinogradProductsAvx2, &kWinogradResultsAvx2};

} // namespace nybble
