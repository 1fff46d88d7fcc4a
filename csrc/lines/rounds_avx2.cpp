// 32 elements at a time, in the pack order of quantize/pack_avx2.cpp.
#include "lines/rounds.hpp"

#include "quantize/registers_avx2.hpp"

namespace nybble {
namespace {

struct Rounding {
  __m256 most, level, width;
  __m256i low, high, codes;

  explicit Rounding(const WholeLevels& of)
      : most(_mm256_set1_ps(of.level[7])), level(_mm256_loadu_ps(of.level)),
        width(_mm256_loadu_ps(of.width)), low(table16(of.low)), high(table16(of.high)),
        codes(table16(of.codes)) {}

  // The signed rank of y, -7 .. 7.
  NYBBLE_INLINE __m256i rank(__m256 y, __m256 u) const {
    const __m256i negative = bits(_mm256_cmp_ps(y, _mm256_setzero_ps(), _CMP_NGE_UQ));
    const __m256 m = _mm256_min_ps(_mm256_castsi256_ps(magnitude_bits(bits(y))), most);
    const __m256i whole = _mm256_cvttps_epi32(m);
    // Bytes 1 to 3 of a dword look up place 0, which is 0 in both tables, or have their top bit
    // set.
    const __m256i small = _mm256_min_epi32(whole, _mm256_set1_epi32(15));
    const __m256i large = _mm256_sub_epi32(whole, _mm256_set1_epi32(16));
    const __m256i below =
        _mm256_add_epi32(_mm256_shuffle_epi8(low, small), _mm256_shuffle_epi8(high, large));
    const __m256i from = _mm256_sub_epi32(below, negative);
    const __m256 away = _mm256_sub_ps(m, _mm256_permutevar8x32_ps(level, from));
    const __m256 part = _mm256_div_ps(_mm256_castsi256_ps(magnitude_bits(bits(away))),
                                      _mm256_permutevar8x32_ps(width, below));
    const __m256i up = bits(_mm256_cmp_ps(u, part, _CMP_LT_OQ));
    return _mm256_sub_epi32(_mm256_sub_epi32(_mm256_xor_si256(from, negative), negative), up);
  }
};

// Multipliers of 64 elements: those of a line, or one number as often.
struct Many {
  alignas(32) float same[64];
  const float* at;
  int64_t step;

  explicit Many(const Multiplier& m) : at(m.each), step(m.each == nullptr ? 0 : 64) {
    if (m.each != nullptr) return;
    for (int i = 0; i < 64; i += 8)
      _mm256_store_ps(same + i, _mm256_set1_ps(m.one));
    at = same;
  }
};

} // namespace

void rounded_avx2(const FoldedPiece& p, const WholeLevels& levels) {
  const Rounding rounding(levels);
  const Many fold(p.fold), inv(p.inv);
  for (int64_t row = 0; row < p.rows; ++row) {
    const float *x = p.x + row * p.step, *a = fold.at, *b = inv.at;
    const int32_t* random = p.random + row * p.n;
    uint8_t* codes = p.codes + row * p.step / 2;
    for (int64_t at = 0; at < p.n; at += 64, a += fold.step, b += inv.step) {
      __m256i half[2];
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        __m256i r[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const int i = 32 * h + 8 * j;
          const __m256 z = _mm256_mul_ps(_mm256_loadu_ps(x + at + i), _mm256_loadu_ps(a + i));
          const auto* drawn = reinterpret_cast<const __m256i*>(random + at + i);
          const __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_loadu_si256(drawn)),
                                         _mm256_set1_ps(0x1p-24f));
          r[j] = rounding.rank(_mm256_mul_ps(z, _mm256_loadu_ps(b + i)), u);
        }
        const __m256i all = pack_order(r[0], r[1], r[2], r[3]);
        half[h] = _mm256_shuffle_epi8(rounding.codes, _mm256_add_epi8(all, _mm256_set1_epi8(7)));
      }
      const __m256i both = _mm256_or_si256(half[0], _mm256_slli_epi16(half[1], 4));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + at / 2), in_order(both));
    }
  }
}

} // namespace nybble
