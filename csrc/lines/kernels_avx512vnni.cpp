// Two of the line kernels on 16 floats at a time: rounding at random, and the errors of two scales.
//
// Comparisons give masks of bits, tables of 16 and 32 numbers are one permutation, and 16 ranks
// become 16 bytes in their order by one instruction, so half as many registers need less than half
// of the instructions of avx2. The same float32 operations, and what surrounds them is avx2's.
#include <immintrin.h>

#include "lines/kernels.hpp"
#include "lines/rounds.hpp"
#include "quantize/registers_avx2.hpp"

namespace nybble {
namespace {

NYBBLE_INLINE __m512 magnitude(__m512 x) {
  return _mm512_castsi512_ps(
      _mm512_and_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}

NYBBLE_INLINE __mmask16 lanes_below(int64_t count) {
  return __mmask16(count < 16 ? (1u << count) - 1 : 0xffffu);
}

NYBBLE_INLINE __m512i add_one(__m512i x, __mmask16 where) {
  return _mm512_mask_add_epi32(x, where, x, _mm512_set1_epi32(1));
}

// rounds_avx2.cpp has the formula.
struct Rounding {
  __m512 most, level, width;
  __m512i below_small, below_large;
  __m256i codes;

  explicit Rounding(const WholeLevels& of)
      : most(_mm512_set1_ps(of.level[7])), level(eight(of.level)), width(eight(of.width)),
        below_small(sixteen(of.low)),
        below_large(_mm512_add_epi32(sixteen(of.high), _mm512_set1_epi32(of.low[15]))),
        codes(table16(of.codes)) {}

  static __m512 eight(const float* table) { return _mm512_maskz_loadu_ps(0x00ff, table); }
  static __m512i sixteen(const uint8_t* table) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  }

  // The signed rank of y, -7 .. 7, of 16 elements.
  NYBBLE_INLINE __m128i rank(__m512 y, __m512 u) const {
    const __mmask16 negative = _mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_NGE_UQ);
    const __m512 m = _mm512_min_ps(magnitude(y), most);
    const __m512i below =
        _mm512_permutex2var_epi32(below_small, _mm512_cvttps_epi32(m), below_large);
    const __m512i from = add_one(below, negative);
    const __m512 away = magnitude(_mm512_sub_ps(m, _mm512_permutexvar_ps(from, level)));
    const __m512 part = _mm512_div_ps(away, _mm512_permutexvar_ps(below, width));
    const __mmask16 up = _mm512_cmp_ps_mask(u, part, _CMP_LT_OQ);
    const __m512i signed_from = _mm512_mask_sub_epi32(from, negative, _mm512_setzero_si512(), from);
    return _mm512_cvtepi32_epi8(add_one(signed_from, up));
  }
};

void rounded(const FoldedPiece& p, const WholeLevels& levels) {
  const Rounding rounding(levels);
  const __m512 fold = _mm512_set1_ps(p.fold.one), inv = _mm512_set1_ps(p.inv.one);
  for (int64_t row = 0; row < p.rows; ++row) {
    const float* x = p.x + row * p.step;
    const int32_t* random = p.random + row * p.n;
    uint8_t* codes = p.codes + row * p.step / 2;
    for (int64_t at = 0; at < p.n; at += 64) {
      __m128i r[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const int64_t i = at + 16 * j;
        const __m512 a = p.fold.each == nullptr ? fold : _mm512_loadu_ps(p.fold.each + i);
        const __m512 b = p.inv.each == nullptr ? inv : _mm512_loadu_ps(p.inv.each + i);
        const __m512 u = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(random + i)),
                                       _mm512_set1_ps(0x1p-24f));
        r[j] = rounding.rank(_mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(x + i), a), b), u);
      }
      __m256i half[2];
      for (int h = 0; h < 2; ++h) {
        const __m256i all = _mm256_set_m128i(r[2 * h + 1], r[2 * h]);
        half[h] = _mm256_shuffle_epi8(rounding.codes, _mm256_add_epi8(all, _mm256_set1_epi8(7)));
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + at / 2),
                          _mm256_or_si256(half[0], _mm256_slli_epi16(half[1], 4)));
    }
  }
}

// The rank among 2^kBits - 1 ascending thresholds, a bit at a time, and its level.
template <int kBits>
struct Nearest {
  __m512 middle[kBits], levels;

  Nearest(const float* thresholds, const float* values) {
    float table[16];
    for (int bit = 0; bit < kBits; ++bit) {
      // Where the bits above are r, the next one is set from thresholds[r + half - 1] on.
      const int half = 1 << (kBits - 1 - bit);
      for (int r = 0; r < 16; ++r)
        table[r] = r + half - 1 < (1 << kBits) - 1 ? thresholds[r + half - 1] : 0.0f;
      middle[bit] = _mm512_loadu_ps(table);
    }
    for (int r = 0; r < 16; ++r)
      table[r] = r < (1 << kBits) ? values[r] : 0.0f;
    levels = _mm512_loadu_ps(table);
  }

  NYBBLE_INLINE __m512 of(__m512 y) const {
    __m512i rank = _mm512_setzero_si512();
#pragma GCC unroll 4
    for (int bit = 0; bit < kBits; ++bit) {
      const __m512 threshold = _mm512_permutexvar_ps(rank, middle[bit]);
      const __mmask16 reached = _mm512_cmp_ps_mask(y, threshold, _CMP_GE_OQ);
      rank = _mm512_mask_add_epi32(rank, reached, rank, _mm512_set1_epi32(1 << (kBits - 1 - bit)));
    }
    return _mm512_permutexvar_ps(rank, levels);
  }
};

template <bool kSize, int kBits>
void errors_of(const float* x, int64_t n, const Nearest<kBits>& near, const float* scale,
               const float* inv, float* const* out) {
  const __m512 scale_a = _mm512_set1_ps(scale[0]), scale_b = _mm512_set1_ps(scale[1]);
  const __m512 inv_a = _mm512_set1_ps(inv[0]), inv_b = _mm512_set1_ps(inv[1]);
  for (int64_t j = 0; j < n; j += 16) {
    const __mmask16 lanes = lanes_below(n - j);
    __m512 v = _mm512_maskz_loadu_ps(lanes, x + j);
    if (kSize) v = magnitude(v);
    const __m512 near_a = near.of(_mm512_mul_ps(v, inv_a));
    const __m512 near_b = near.of(_mm512_mul_ps(v, inv_b));
    const __m512 miss_a = _mm512_sub_ps(v, _mm512_mul_ps(near_a, scale_a));
    const __m512 miss_b = _mm512_sub_ps(v, _mm512_mul_ps(near_b, scale_b));
    _mm512_mask_storeu_ps(out[0] + j, lanes, _mm512_mul_ps(miss_a, miss_a));
    _mm512_mask_storeu_ps(out[1] + j, lanes, _mm512_mul_ps(miss_b, miss_b));
  }
}

void errors(const float* x, int64_t n, const LevelRule& rule, LevelForm form, const float* scale,
            const float* inv, float* const* out) {
  if (form == LevelForm::Mirrored)
    errors_of<true>(x, n, Nearest<3>(rule.thresholds + 8, rule.levels + 8), scale, inv, out);
  else if (form == LevelForm::Any)
    errors_of<false>(x, n, Nearest<4>(rule.thresholds, rule.levels), scale, inv, out);
  else
    kLineAvx2.errors(x, n, rule, form, scale, inv, out);
}

} // namespace

void errors_avx512vnni(const float* x, int64_t n, const LevelRule& rule, LevelForm form,
                       const float* scale, const float* inv, float* const* out) {
  errors(x, n, rule, form, scale, inv, out);
}

void rounded_avx512vnni(const FoldedPiece& piece, const WholeLevels& levels) {
  rounded(piece, levels);
}

} // namespace nybble
