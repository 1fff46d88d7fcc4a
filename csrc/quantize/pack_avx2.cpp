// The pack kernels on 64 elements at a time.
//
// Each rule turns four registers of y into 32 code bytes in "pack order", the order in which
// vpackssdw and vpacksswb leave four registers: dwords y0 y1 y2 y3 of the lower halves, then of the
// upper ones. Two such halves become a block, lower | upper << 4, and one vpermd puts it in order.
#include <immintrin.h>

#include <cstring>

#include "quantize/mirrored_avx2.hpp"
#include "quantize/pack.hpp"
#include "quantize/registers_avx2.hpp"
#include "quantize/search_avx2.hpp"

namespace nybble {
namespace {

struct Float {
  using T = float;
  static NYBBLE_INLINE __m256 load(const float* x) { return _mm256_loadu_ps(x); }
  static NYBBLE_INLINE float widen(float x) { return x; }
};

struct Bfloat {
  using T = uint16_t;
  static NYBBLE_INLINE __m256 load(const uint16_t* x) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static NYBBLE_INLINE float widen(uint16_t x) {
    const uint32_t b = uint32_t(x) << 16;
    float out;
    std::memcpy(&out, &b, 4);
    return out;
  }
};

// ---- rules --------------------------------------------------------------------------------------

template <bool kAffine>
struct Integer {
  static constexpr int kOutputs = 1;
  static constexpr bool kShift = kAffine;
  __m256 zero, high;
  __m256i low, nibble;

  explicit Integer(const IntegerRule& rule)
      : zero(_mm256_set1_ps(rule.zero)), high(_mm256_set1_ps(float(rule.high))),
        low(_mm256_set1_epi8(char(rule.low))), nibble(_mm256_set1_epi8(char(rule.nibble))) {}

  NYBBLE_INLINE void codes(const __m256* y, const int32_t*, __m256i* out) const {
    // Only the upper end is clamped as a float: what lies below int32 converts to its minimum,
    // which the packs keep at their own, and the lower end is clamped on 32 bytes at once.
    __m256i i[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      i[j] = _mm256_cvtps_epi32(_mm256_min_ps(y[j], high));
    const __m256i all = _mm256_max_epi8(pack_order(i[0], i[1], i[2], i[3]), low);
    out[0] = _mm256_and_si256(all, nibble);
  }
};

template <int kPhases, bool kCarry, bool kHalf>
struct Log {
  static constexpr int kOutputs = kPhases;
  static constexpr bool kShift = false;
  __m256 zero;
  __m256i carry, start[kPhases], top[kPhases], half[kPhases], table[kPhases];
  __m128i shift[kPhases];

  explicit Log(const LogRule& rule)
      : zero(_mm256_setzero_ps()), carry(_mm256_set1_epi32(rule.carry)) {
    for (int k = 0; k < kPhases; ++k) {
      const LogPhase& phase = rule.phase[k];
      start[k] = _mm256_set1_epi16(short(phase.start));
      top[k] = _mm256_set1_epi8(char(phase.top));
      half[k] = _mm256_set1_epi16(short(phase.half));
      table[k] = table16(phase.table);
      shift[k] = _mm_cvtsi32_si128(phase.shift);
    }
  }

  NYBBLE_INLINE static void upper_halves(const __m256* y, __m256i add, bool adds, __m256i* words) {
    for (int j = 0; j < 2; ++j) {
      __m256i a = bits(y[2 * j]), b = bits(y[2 * j + 1]);
      if (adds) a = _mm256_add_epi32(a, add), b = _mm256_add_epi32(b, add);
      words[j] = _mm256_packs_epi32(_mm256_srai_epi32(a, 16), _mm256_srai_epi32(b, 16));
    }
  }

  NYBBLE_INLINE void codes(const __m256* y, const int32_t*, __m256i* out) const {
    const __m256i no_sign = _mm256_set1_epi16(0x7fff);
    __m256i word[2], above[2];
    upper_halves(y, carry, kCarry, word);
    const __m256i a0 = _mm256_and_si256(word[0], no_sign);
    const __m256i a1 = _mm256_and_si256(word[1], no_sign);
    const __m256i sign = _mm256_packs_epi16(word[0], word[1]);
    if (kHalf) {
      upper_halves(y, _mm256_set1_epi32(0xffff), true, above);
      above[0] = _mm256_and_si256(above[0], no_sign);
      above[1] = _mm256_and_si256(above[1], no_sign);
    }
    for (int k = 0; k < kPhases; ++k) {
      const __m256i m0 = _mm256_srl_epi16(_mm256_subs_epu16(a0, start[k]), shift[k]);
      const __m256i m1 = _mm256_srl_epi16(_mm256_subs_epu16(a1, start[k]), shift[k]);
      __m256i m = _mm256_min_epu8(_mm256_packus_epi16(m0, m1), top[k]);
      if (kHalf) {
        const __m256i over = _mm256_packs_epi16(_mm256_cmpgt_epi16(above[0], half[k]),
                                                _mm256_cmpgt_epi16(above[1], half[k]));
        m = _mm256_and_si256(_mm256_max_epu8(m, _mm256_set1_epi8(1)), over);
      }
      // A sign byte of 0 (all upper bits of y are 0) makes the code 0, which it is.
      const __m256i index = _mm256_add_epi8(_mm256_sign_epi8(m, sign), _mm256_set1_epi8(8));
      out[k] = _mm256_shuffle_epi8(table[k], index);
    }
  }
};

struct Thresholds {
  static constexpr int kOutputs = 1;
  static constexpr bool kShift = false;
  __m256 zero;
  Search<4> search;
  __m256i table;

  explicit Thresholds(const ThresholdRule& rule)
      : zero(_mm256_setzero_ps()), search(rule.thresholds), table(table16(rule.table)) {}

  NYBBLE_INLINE void codes(const __m256* y, const int32_t*, __m256i* out) const {
    __m256i r[4];
    __m256 upper;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
      r[j] = search.rank(y[j], &upper);
    out[0] = _mm256_shuffle_epi8(table, pack_order(r[0], r[1], r[2], r[3]));
  }
};

template <bool kMagnitude>
struct Stochastic {
  static constexpr int kOutputs = 1;
  static constexpr bool kShift = true;
  static constexpr int kBits = kMagnitude ? 3 : 4;

  struct Padded { // levels with NaN, which no number reaches, behind the last one
    float level[17], width[16];
    explicit Padded(const StochasticRule& rule) {
      const uint32_t nan_bits = 0x7fc00000u;
      for (int i = 0; i < 17; ++i) {
        if (i < rule.count)
          level[i] = rule.levels[i];
        else
          std::memcpy(&level[i], &nan_bits, 4);
      }
      for (int i = 0; i < 16; ++i)
        width[i] = i + 1 < rule.count ? level[i + 1] - level[i] : 1.0f;
    }
  };

  __m256 zero, least, most, level[2], width[2];
  Search<kBits> search;
  __m256i table;

  explicit Stochastic(const StochasticRule& rule) : Stochastic(rule, Padded(rule)) {}
  Stochastic(const StochasticRule& rule, const Padded& p)
      : zero(_mm256_set1_ps(rule.zero)), least(_mm256_set1_ps(rule.levels[0])),
        most(_mm256_set1_ps(rule.levels[rule.count - 1])), search(p.level + 1),
        table(table16(rule.table)) {
    for (int i = 0; i < 2; ++i) {
      level[i] = _mm256_loadu_ps(p.level + 8 * i);
      width[i] = _mm256_loadu_ps(p.width + 8 * i);
    }
  }

  NYBBLE_INLINE __m256 look_up(const __m256* table_of, __m256i r, __m256 upper) const {
    const __m256 low = _mm256_permutevar8x32_ps(table_of[0], r);
    if (kMagnitude) return low;
    return _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(table_of[1], r), upper);
  }

  NYBBLE_INLINE void codes(const __m256* y, const int32_t* random, __m256i* out) const {
    __m256i rank[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      __m256 m = y[j], upper;
      if (kMagnitude) m = _mm256_castsi256_ps(magnitude_bits(bits(m)));
      m = _mm256_min_ps(_mm256_max_ps(m, least), most);
      __m256i r = search.rank(m, &upper);
      const __m256 part =
          _mm256_div_ps(_mm256_sub_ps(m, look_up(level, r, upper)), look_up(width, r, upper));
      const __m256i drawn = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(random + 8 * j));
      const __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(drawn), _mm256_set1_ps(0x1p-24f));
      r = _mm256_sub_epi32(r, bits(_mm256_cmp_ps(u, part, _CMP_LT_OQ)));
      if (kMagnitude)
        r = _mm256_or_si256(r, _mm256_slli_epi32(_mm256_srli_epi32(bits(y[j]), 31), 3));
      rank[j] = r;
    }
    out[0] = _mm256_shuffle_epi8(table, pack_order(rank[0], rank[1], rank[2], rank[3]));
  }
};

// ---- the loop over blocks -----------------------------------------------------------------------

struct Range {
  __m256 factor, low, high; // of y = x * factor, and of the mask
};

template <class Rule, class Load, bool kMask>
NYBBLE_INLINE __m256i block(const Rule& rule, const Range& range, const typename Load::T* x,
                            const int32_t* random, __m256i top, uint8_t* codes, uint8_t* second,
                            uint64_t* mask) {
  __m256i half[2][Rule::kOutputs];
  uint32_t inside[2] = {0, 0};
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    __m256 y[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256 value = Load::load(x + 32 * h + 8 * j);
      top = _mm256_max_epi32(top, magnitude_bits(bits(value)));
      y[j] = _mm256_mul_ps(value, range.factor);
      if (Rule::kShift) y[j] = _mm256_add_ps(y[j], rule.zero);
    }
    if (kMask) {
      __m256i in[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j)
        in[j] = bits(_mm256_and_ps(_mm256_cmp_ps(y[j], range.low, _CMP_GE_OQ),
                                   _mm256_cmp_ps(y[j], range.high, _CMP_LE_OQ)));
      inside[h] = uint32_t(_mm256_movemask_epi8(in_order(pack_order(in[0], in[1], in[2], in[3]))));
    }
    rule.codes(y, random + 32 * h, half[h]);
  }
  for (int k = 0; k < Rule::kOutputs; ++k) {
    const __m256i both = _mm256_or_si256(half[0][k], _mm256_slli_epi16(half[1][k], 4));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(k == 0 ? codes : second), in_order(both));
  }
  if (kMask) *mask = uint64_t(inside[1]) << 32 | inside[0];
  return top;
}

uint32_t largest(__m256i top) {
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), top);
  uint32_t out = 0;
  for (uint32_t lane : lanes)
    out = lane > out ? lane : out;
  return out;
}

// Bytes to ask for ahead of the loop: the hardware stops at the end of every page. (A prefetch
// beyond the tensor is no access.)
constexpr int64_t kAhead = 4096;
template <class Load>
constexpr int64_t kLine = 64 / int64_t(sizeof(typename Load::T));

void zero_beyond(uint8_t* codes, int64_t count) {
  for (int64_t i = 0; i < 32; ++i)
    codes[i] = uint8_t(codes[i] & ((i < count ? 0x0f : 0) | (i + 32 < count ? 0xf0 : 0)));
}

template <class Rule, class Load, bool kMask>
uint32_t run(const Piece& p, const Rule& rule) {
  const auto* x = static_cast<const typename Load::T*>(p.x);
  const Range range{_mm256_set1_ps(p.factor), _mm256_set1_ps(p.inside_low),
                    _mm256_set1_ps(p.inside_high)};
  static const int32_t nothing[64] = {};
  constexpr bool two = Rule::kOutputs == 2;
  const bool draws = p.random != nullptr;
  __m256i top = _mm256_setzero_si256();
  uint64_t mask = 0;
  int64_t at = 0;
  for (; at + 64 <= p.n; at += 64) {
    for (int64_t line = 0; line < 64; line += kLine<Load>)
      _mm_prefetch(reinterpret_cast<const char*>(x + at + line) + kAhead, _MM_HINT_T0);
    top = block<Rule, Load, kMask>(rule, range, x + at, draws ? p.random + at : nothing, top,
                                   p.codes + at / 2, two ? p.second + at / 2 : nullptr, &mask);
    if (kMask) std::memcpy(p.mask + at / 8, &mask, 8);
  }
  const int64_t rest = p.n - at;
  if (rest > 0) {
    float tail[64] = {};
    int32_t drawn[64] = {};
    for (int64_t i = 0; i < rest; ++i) {
      tail[i] = Load::widen(x[at + i]);
      if (draws) drawn[i] = p.random[at + i];
    }
    top = block<Rule, Float, kMask>(rule, range, tail, drawn, top, p.codes + at / 2,
                                    two ? p.second + at / 2 : nullptr, &mask);
    zero_beyond(p.codes + at / 2, rest);
    if (two) zero_beyond(p.second + at / 2, rest);
    mask &= (uint64_t(1) << rest) - 1;
    if (kMask) std::memcpy(p.mask + at / 8, &mask, size_t((rest + 7) / 8));
  }
  return largest(top);
}

template <class Rule>
uint32_t choose(const Piece& p, const Rule& rule) {
  if (p.mask != nullptr)
    return p.bf16 ? run<Rule, Bfloat, true>(p, rule) : run<Rule, Float, true>(p, rule);
  return p.bf16 ? run<Rule, Bfloat, false>(p, rule) : run<Rule, Float, false>(p, rule);
}

uint32_t integer(const Piece& p, const IntegerRule& rule) {
  return rule.affine ? choose(p, Integer<true>(rule)) : choose(p, Integer<false>(rule));
}

template <int kPhases>
uint32_t log_phases(const Piece& p, const LogRule& rule) {
  if (rule.halves) return choose(p, Log<kPhases, true, true>(rule));
  return rule.carry ? choose(p, Log<kPhases, true, false>(rule))
                    : choose(p, Log<kPhases, false, false>(rule));
}

uint32_t log(const Piece& p, const LogRule& rule) {
  return p.second != nullptr ? log_phases<2>(p, rule) : log_phases<1>(p, rule);
}

uint32_t thresholds(const Piece& p, const ThresholdRule& rule) {
  if (mirrored_thresholds(rule.thresholds)) return choose(p, Mirrored(rule));
  return choose(p, Thresholds(rule));
}

uint32_t stochastic(const Piece& p, const StochasticRule& rule) {
  if (StochasticMirrored::fits(rule)) return choose(p, StochasticMirrored(rule));
  return rule.magnitude ? choose(p, Stochastic<true>(rule)) : choose(p, Stochastic<false>(rule));
}

} // namespace

const QuantizeKernels kQuantizeAvx2 = {integer, log, thresholds, stochastic};

} // namespace nybble
