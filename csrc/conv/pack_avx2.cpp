// Transpositions in registers: a panel is written once, in order, from lines that are read once.
#include <immintrin.h>

#include <cstring>

#include "conv/pack.hpp"

namespace nybble {
namespace {

inline __m256i load32(const uint8_t* at) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
}
inline __m128i load16(const uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
inline __m128i load8(const uint8_t* at) {
  return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at));
}
inline void store32(uint8_t* at, __m256i x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x);
}
inline void store16(uint8_t* at, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(at), x); }
inline void store8(uint8_t* at, __m128i x) { _mm_storel_epi64(reinterpret_cast<__m128i*>(at), x); }

// Four rows of eight groups: out[i] = groups i and i + 4, each [row 0 .. row 3].
inline void transpose4(const uint8_t* const* rows, int64_t at, __m256i* out) {
  const __m256i a = load32(rows[0] + at), b = load32(rows[1] + at);
  const __m256i c = load32(rows[2] + at), d = load32(rows[3] + at);
  const __m256i ab0 = _mm256_unpacklo_epi32(a, b), ab1 = _mm256_unpackhi_epi32(a, b);
  const __m256i cd0 = _mm256_unpacklo_epi32(c, d), cd1 = _mm256_unpackhi_epi32(c, d);
  out[0] = _mm256_unpacklo_epi64(ab0, cd0);
  out[1] = _mm256_unpackhi_epi64(ab0, cd0);
  out[2] = _mm256_unpacklo_epi64(ab1, cd1);
  out[3] = _mm256_unpackhi_epi64(ab1, cd1);
}

template <int R>
void gather_tail(const uint8_t* const* rows, int64_t from, int64_t groups, uint8_t* out) {
  for (int64_t g = from; g < groups; ++g)
    for (int r = 0; r < R; ++r)
      std::memcpy(out + (g * R + r) * 4, rows[r] + 4 * g, 4);
}

void gather_rows(const uint8_t* const* rows, int64_t groups, uint8_t* out) {
  static_assert(kRows == 6, "four rows and two");
  int64_t g = 0;
  for (; g + 8 <= groups; g += 8) {
    __m256i four[4];
    transpose4(rows, 4 * g, four);
    const __m256i e = load32(rows[4] + 4 * g), f = load32(rows[5] + 4 * g);
    const __m256i ef[2] = {_mm256_unpacklo_epi32(e, f), _mm256_unpackhi_epi32(e, f)};
    for (int half = 0; half < 2; ++half)
      for (int i = 0; i < 4; ++i) {
        uint8_t* to = out + (g + 4 * half + i) * 24;
        const __m128i two =
            half == 0 ? _mm256_castsi256_si128(ef[i / 2]) : _mm256_extracti128_si256(ef[i / 2], 1);
        store16(to,
                half == 0 ? _mm256_castsi256_si128(four[i]) : _mm256_extracti128_si256(four[i], 1));
        store8(to + 16, i % 2 == 0 ? two : _mm_unpackhi_epi64(two, two));
      }
  }
  gather_tail<kRows>(rows, g, groups, out);
}

void gather_columns(const uint8_t* const* rows, int64_t groups, uint8_t* out) {
  static_assert(kColumns == 16, "four times four");
  int64_t g = 0;
  for (; g + 8 <= groups; g += 8)
    for (int part = 0; part < 4; ++part) {
      __m256i four[4];
      transpose4(rows + 4 * part, 4 * g, four);
      for (int i = 0; i < 4; ++i) {
        uint8_t* to = out + (g + i) * 64 + 16 * part;
        store16(to, _mm256_castsi256_si128(four[i]));
        store16(to + 4 * 64, _mm256_extracti128_si256(four[i], 1));
      }
    }
  gather_tail<kColumns>(rows, g, groups, out);
}

void cross_rows_bytes(const uint8_t* const* lines, int64_t offset, int64_t groups, uint8_t* out) {
  for (int64_t g = 0; g < groups; ++g, lines += 4, out += 24) {
    const __m128i ab = _mm_unpacklo_epi8(load8(lines[0] + offset), load8(lines[1] + offset));
    const __m128i cd = _mm_unpacklo_epi8(load8(lines[2] + offset), load8(lines[3] + offset));
    store16(out, _mm_unpacklo_epi16(ab, cd));
    store8(out + 16, _mm_unpackhi_epi16(ab, cd));
  }
}

void cross_rows_words(const uint8_t* const* lines, int64_t offset, int64_t groups, uint8_t* out) {
  for (int64_t g = 0; g < groups; ++g, lines += 2, out += 24) {
    const __m128i a = load16(lines[0] + offset), b = load16(lines[1] + offset);
    store16(out, _mm_unpacklo_epi16(a, b));
    store8(out + 16, _mm_unpackhi_epi16(a, b));
  }
}

void cross_columns_bytes(const uint8_t* const* lines, int64_t offset, int64_t groups,
                         uint8_t* out) {
  for (int64_t g = 0; g < groups; ++g, lines += 4, out += 64) {
    const __m128i a = load16(lines[0] + offset), b = load16(lines[1] + offset);
    const __m128i c = load16(lines[2] + offset), d = load16(lines[3] + offset);
    const __m128i ab0 = _mm_unpacklo_epi8(a, b), ab1 = _mm_unpackhi_epi8(a, b);
    const __m128i cd0 = _mm_unpacklo_epi8(c, d), cd1 = _mm_unpackhi_epi8(c, d);
    store16(out, _mm_unpacklo_epi16(ab0, cd0));
    store16(out + 16, _mm_unpackhi_epi16(ab0, cd0));
    store16(out + 32, _mm_unpacklo_epi16(ab1, cd1));
    store16(out + 48, _mm_unpackhi_epi16(ab1, cd1));
  }
}

void cross_columns_words(const uint8_t* const* lines, int64_t offset, int64_t groups,
                         uint8_t* out) {
  for (int64_t g = 0; g < groups; ++g, lines += 2, out += 64) {
    const __m256i a = load32(lines[0] + offset), b = load32(lines[1] + offset);
    const __m256i low = _mm256_unpacklo_epi16(a, b), high = _mm256_unpackhi_epi16(a, b);
    store32(out, _mm256_permute2x128_si256(low, high, 0x20));
    store32(out + 32, _mm256_permute2x128_si256(low, high, 0x31));
  }
}

void start(const int32_t* correction, int32_t* acc) {
  const auto* from = reinterpret_cast<const uint8_t*>(correction);
  const __m256i low = load32(from), high = load32(from + 32);
  auto* to = reinterpret_cast<uint8_t*>(acc);
  for (int r = 0; r < kRows; ++r, to += 64)
    store32(to, low), store32(to + 32, high);
}

void finish(const int32_t* acc, int count, const float* row, const float* column, const float* bias,
            float* const* out) {
  const __m256 c0 = _mm256_loadu_ps(column), c1 = _mm256_loadu_ps(column + 8);
  for (int r = 0; r < count; ++r, acc += kColumns) {
    const auto* from = reinterpret_cast<const __m256i*>(acc);
    const __m256 scale = _mm256_set1_ps(row[r]);
    __m256 y0 = _mm256_cvtepi32_ps(_mm256_loadu_si256(from));
    __m256 y1 = _mm256_cvtepi32_ps(_mm256_loadu_si256(from + 1));
    y0 = _mm256_mul_ps(y0, _mm256_mul_ps(scale, c0));
    y1 = _mm256_mul_ps(y1, _mm256_mul_ps(scale, c1));
    if (bias != nullptr) {
      y0 = _mm256_add_ps(y0, _mm256_loadu_ps(bias));
      y1 = _mm256_add_ps(y1, _mm256_loadu_ps(bias + 8));
    }
    _mm256_storeu_ps(out[r], y0);
    _mm256_storeu_ps(out[r] + 8, y1);
  }
}

inline __m256i load_words(const int16_t* at) {
  return load32(reinterpret_cast<const uint8_t*>(at));
}

// The sums of one pixel: channels 0 to 7 and 8 to 15.
inline void weigh_pixel(const int16_t* from, const int64_t* offsets, int64_t pairs,
                        const int16_t* w, __m256i& first, __m256i& second) {
  __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
  for (int64_t k = 0; k < pairs; ++k, w += 32) {
    const __m256i a = load_words(from + offsets[2 * k]);
    const __m256i b = load_words(from + offsets[2 * k + 1]);
    low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), load_words(w)));
    high =
        _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), load_words(w + 16)));
  }
  first = _mm256_permute2x128_si256(low, high, 0x20);
  second = _mm256_permute2x128_si256(low, high, 0x31);
}

void weigh(const int16_t* from, int64_t pixels, int64_t step, const int64_t* offsets, int64_t pairs,
           const int16_t* weights, int32_t* acc, int64_t acc_step) {
  for (int64_t p = 0; p < pixels; ++p, from += step, acc += acc_step) {
    __m256i first, second;
    weigh_pixel(from, offsets, pairs, weights, first, second);
    auto* to = reinterpret_cast<uint8_t*>(acc);
    store32(to, first), store32(to + 32, second);
  }
}

void weigh_finish(const int16_t* from, int64_t pixels, int64_t step, const int64_t* offsets,
                  int64_t pairs, const int16_t* weights, const float* scale, const float* bias,
                  float* out, int64_t out_step) {
  const __m256 s0 = _mm256_loadu_ps(scale), s1 = _mm256_loadu_ps(scale + 8);
  for (int64_t p = 0; p < pixels; ++p, from += step, out += out_step) {
    __m256i first, second;
    weigh_pixel(from, offsets, pairs, weights, first, second);
    __m256 y0 = _mm256_mul_ps(_mm256_cvtepi32_ps(first), s0);
    __m256 y1 = _mm256_mul_ps(_mm256_cvtepi32_ps(second), s1);
    if (bias != nullptr) {
      y0 = _mm256_add_ps(y0, _mm256_loadu_ps(bias));
      y1 = _mm256_add_ps(y1, _mm256_loadu_ps(bias + 8));
    }
    _mm256_storeu_ps(out, y0);
    _mm256_storeu_ps(out + 8, y1);
  }
}

void dot(const int16_t* a, const int16_t* b, int64_t groups, int32_t* acc) {
  auto* to = reinterpret_cast<uint8_t*>(acc);
  __m256i first = load32(to), second = load32(to + 32);
  for (int64_t g = 0; g < groups; ++g, a += 32, b += 32) {
    first = _mm256_add_epi32(first, _mm256_madd_epi16(load_words(a), load_words(b)));
    second = _mm256_add_epi32(second, _mm256_madd_epi16(load_words(a + 16), load_words(b + 16)));
  }
  store32(to, first), store32(to + 32, second);
}

void finish_line(const int32_t* acc, int64_t count, const float* scale, const float* bias,
                 float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256 y = _mm256_cvtepi32_ps(load32(reinterpret_cast<const uint8_t*>(acc + i)));
    y = _mm256_mul_ps(y, _mm256_loadu_ps(scale + i));
    if (bias != nullptr) y = _mm256_add_ps(y, _mm256_loadu_ps(bias + i));
    _mm256_storeu_ps(out + i, y);
  }
  for (; i < count; ++i) {
    const float value = float(acc[i]) * scale[i];
    out[i] = bias == nullptr ? value : value + bias[i];
  }
}

} // namespace

const ConvKernels kConvAvx2 = {gather_rows,
                               gather_columns,
                               {cross_rows_bytes, cross_rows_words},
                               {cross_columns_bytes, cross_columns_words},
                               start,
                               finish,
                               weigh,
                               weigh_finish,
                               dot,
                               finish_line};

} // namespace nybble
