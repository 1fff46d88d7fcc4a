// The moves of panels.hpp in registers. A store of a 6-wide group writes 32 bytes, of which the
// last 8 are overwritten by the next group.
#include <immintrin.h>

#include <cstring>

#include "gemm/panels.hpp"

namespace nybble {
namespace {

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
inline __m128i half(const void* at) { return _mm_loadu_si128(static_cast<const __m128i*>(at)); }
inline void store(void* at, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(at), x); }
inline void store(void* at, __m128i x) { _mm_storeu_si128(static_cast<__m128i*>(at), x); }

// x[i] word j -> x[j] word i
inline void transpose8(__m256i* x) {
  __m256i t[8], u[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      u[i + 2 * j] = _mm256_unpacklo_epi64(t[i + j], t[i + 2 + j]);
      u[i + 2 * j + 1] = _mm256_unpackhi_epi64(t[i + j], t[i + 2 + j]);
    }
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
    x[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
  }
}

void gather(const uint8_t* const* rows, int count, int width, int64_t groups, uint32_t* panel) {
  int64_t g = 0;
  for (; g + 8 <= groups; g += 8, panel += 8 * width)
    for (int first = 0; first < width; first += 8) {
      __m256i x[8];
      for (int r = 0; r < 8; ++r)
        x[r] = first + r < count ? load(rows[first + r] + 4 * g) : _mm256_setzero_si256();
      transpose8(x);
      for (int i = 0; i < 8; ++i)
        store(panel + i * width + first, x[i]);
    }
  for (; g < groups; ++g)
    for (int r = 0; r < width; ++r, ++panel) {
      *panel = 0;
      if (r < count) std::memcpy(panel, rows[r] + 4 * g, 4);
    }
}

// Columns 0..15 of 4 rows of bytes; the first `words` 32-bit words of the result are wanted.
inline void weave_bytes(const uint8_t* const* rows, int64_t offset, int words, uint32_t* out) {
  const __m128i r0 = half(rows[0] + offset), r1 = half(rows[1] + offset);
  const __m128i r2 = half(rows[2] + offset), r3 = half(rows[3] + offset);
  const __m128i a = _mm_unpacklo_epi8(r0, r1), b = _mm_unpacklo_epi8(r2, r3);
  store(out, _mm_unpacklo_epi16(a, b));
  store(out + 4, _mm_unpackhi_epi16(a, b));
  if (words <= 8) return;
  const __m128i c = _mm_unpackhi_epi8(r0, r1), d = _mm_unpackhi_epi8(r2, r3);
  store(out + 8, _mm_unpacklo_epi16(c, d));
  store(out + 12, _mm_unpackhi_epi16(c, d));
}

// Columns 0..7 of 2 rows of words.
inline void weave_words(const uint8_t* a, const uint8_t* b, uint32_t* out) {
  const __m128i x = half(a), y = half(b);
  store(out, _mm_unpacklo_epi16(x, y));
  store(out + 4, _mm_unpackhi_epi16(x, y));
}

void weave(const uint8_t* const* rows, int64_t offset, int size, int width, int64_t groups,
           uint32_t* panel) {
  for (int64_t g = 0; g < groups; ++g, panel += width) {
    if (size == 1) {
      weave_bytes(rows + 4 * g, offset, width, panel);
    } else {
      weave_words(rows[2 * g] + offset, rows[2 * g + 1] + offset, panel);
      if (width > 8)
        weave_words(rows[2 * g] + offset + 16, rows[2 * g + 1] + offset + 16, panel + 8);
    }
  }
}

// Lane i of `lanes` is a sum of the words i, i + 8 * registers, ...: a whole number of groups.
template <int Registers>
void add_words(const uint32_t* panel, int64_t times, int32_t* lanes) {
  const __m256i bytes = _mm256_set1_epi8(1), words = _mm256_set1_epi16(1);
  __m256i sum[Registers];
  for (auto& s : sum)
    s = _mm256_setzero_si256();
  for (int64_t t = 0; t < times; ++t, panel += 8 * Registers)
    for (int i = 0; i < Registers; ++i) {
      const __m256i pairs = _mm256_maddubs_epi16(bytes, load(panel + 8 * i));
      sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, words));
    }
  for (int i = 0; i < Registers; ++i)
    store(lanes + 8 * i, sum[i]);
}

void sums(const uint32_t* panel, int width, int64_t groups, int32_t* out) {
  int32_t lanes[24];
  const int together = width == kColumns ? 1 : 24 / kRows;
  static_assert(kColumns == 16 && 24 % kRows == 0, "lanes below");
  const int64_t times = groups / together;
  if (width == kColumns)
    add_words<2>(panel, times, lanes);
  else
    add_words<3>(panel, times, lanes);
  for (int c = 0; c < width; ++c) {
    out[c] = 0;
    for (int i = 0; i < together; ++i)
      out[c] += lanes[i * width + c];
  }
  panel += times * together * width;
  for (int64_t g = times * together; g < groups; ++g)
    for (int c = 0; c < width; ++c, ++panel) {
      int8_t bytes[4];
      std::memcpy(bytes, panel, 4);
      out[c] += bytes[0] + bytes[1] + bytes[2] + bytes[3];
    }
}

} // namespace

const PanelKernels kPanelsAvx2 = {gather, weave, sums};

} // namespace nybble
