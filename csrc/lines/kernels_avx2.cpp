// The line kernels on 8 floats at a time.
#include <immintrin.h>

#include <type_traits>

#include "lines/kernels.hpp"
#include "lines/rounds.hpp"
#include "quantize/registers_avx2.hpp"
#include "quantize/search_avx2.hpp"

namespace nybble {
namespace {

NYBBLE_INLINE __m256i magnitude(__m256 x) {
  return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
}

NYBBLE_INLINE uint32_t largest(__m256i top) {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return uint32_t(_mm_cvtsi128_si32(m));
}

NYBBLE_INLINE void raise(uint32_t* top, __m256i with) {
  const uint32_t found = largest(with);
  *top = found > *top ? found : *top;
}

// Lanes below `count` are loaded and stored.
NYBBLE_INLINE __m256i lanes_below(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

template <bool kTail>
NYBBLE_INLINE __m256 load(const float* at, __m256i lanes) {
  return kTail ? _mm256_maskload_ps(at, lanes) : _mm256_loadu_ps(at);
}

template <bool kTail>
NYBBLE_INLINE void store(float* at, __m256i lanes, __m256 x) {
  if (kTail)
    _mm256_maskstore_ps(at, lanes, x);
  else
    _mm256_storeu_ps(at, x);
}

// Calls step(j, lanes) for whole registers, then tail(j, lanes) for what is left.
template <class Whole, class Tail>
NYBBLE_INLINE void each8(int64_t n, const Whole& whole, const Tail& tail) {
  int64_t j = 0;
  for (; j + 8 <= n; j += 8)
    whole(j, _mm256_setzero_si256());
  if (j < n) tail(j, lanes_below(n - j));
}

template <int kCount>
struct Folded {
  const FoldedRows& p;
  alignas(32) float across[kCount][8];
  __m256i top[kCount];

  template <bool kTail, bool kAlong, bool kSums>
  NYBBLE_INLINE void step(int64_t j, __m256i lanes) {
    const __m256 along = kAlong ? load<kTail>(p.along + j, lanes) : _mm256_setzero_ps();
    auto* tops = reinterpret_cast<float*>(p.column_tops + j);
    __m256i column = _mm256_castps_si256(load<kTail>(tops, lanes));
    __m256 z[kCount];
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      const __m256 x = load<kTail>(p.row[r] + j, lanes);
      // Lanes beyond the row are 0, and so is their product with a finite or infinite number of
      // the memory; a NaN there comes from `along`, which is masked as well.
      top[r] = _mm256_max_epi32(top[r], magnitude(kAlong ? _mm256_mul_ps(x, along) : x));
      z[r] = _mm256_mul_ps(x, _mm256_load_ps(across[r]));
      column = _mm256_max_epi32(column, magnitude(z[r]));
    }
    store<kTail>(tops, lanes, _mm256_castsi256_ps(column));
    if (!kSums) return;
#pragma GCC unroll 3
    for (int count = kCount; count > 1; count /= 2)
#pragma GCC unroll 4
      for (int i = 0; i < count / 2; ++i)
        z[i] = _mm256_add_ps(z[2 * i], z[2 * i + 1]);
    store<kTail>(p.sums + j, lanes, z[0]);
  }

  template <bool kAlong, bool kSums>
  void run() {
    for (int r = 0; r < kCount; ++r) {
      top[r] = _mm256_setzero_si256();
      _mm256_store_ps(across[r], _mm256_set1_ps(p.across[r]));
    }
    int64_t j = 0;
    for (; j + 8 <= p.n; j += 8)
      step<false, kAlong, kSums>(j, _mm256_setzero_si256());
    if (j < p.n) step<true, kAlong, kSums>(j, lanes_below(p.n - j));
    for (int r = 0; r < kCount; ++r)
      raise(p.row_top[r], top[r]);
  }
};

template <int kCount>
void folded_of(const FoldedRows& p) {
  Folded<kCount> of{p, {}, {}};
  if (p.along != nullptr)
    p.sums != nullptr ? of.template run<true, true>() : of.template run<true, false>();
  else
    p.sums != nullptr ? of.template run<false, true>() : of.template run<false, false>();
}

void folded(const FoldedRows& p) {
  switch (p.count) {
  case 1:
    return folded_of<1>(p);
  case 2:
    return folded_of<2>(p);
  case 4:
    return folded_of<4>(p);
  default:
    return folded_of<8>(p);
  }
}

template <bool kTail>
NYBBLE_INLINE __m256 of(const Multiplier& m, int64_t j, __m256i lanes) {
  return m.each == nullptr ? _mm256_set1_ps(m.one) : load<kTail>(m.each + j, lanes);
}

void scaled(const float* x, int64_t n, Multiplier a, Multiplier b, float* y) {
  const auto step = [&](int64_t j, __m256i lanes, auto tail) {
    constexpr bool kTail = decltype(tail)::value;
    const __m256 z = _mm256_mul_ps(load<kTail>(x + j, lanes), of<kTail>(a, j, lanes));
    store<kTail>(y + j, lanes, _mm256_mul_ps(z, of<kTail>(b, j, lanes)));
  };
  each8(
      n, [&](int64_t j, __m256i lanes) { step(j, lanes, std::false_type()); },
      [&](int64_t j, __m256i lanes) { step(j, lanes, std::true_type()); });
}

// Of whole numbers. A NaN becomes the lowest level, as with thresholds: its error is a NaN anyway.
struct WholeNumbers {
  static constexpr bool kSize = false;
  __m256 low, high;

  explicit WholeNumbers(const LevelRule& rule) : low(_mm256_set1_ps(rule.levels[0])) {
    int last = 0;
    while (last < 15 && rule.thresholds[last] == rule.thresholds[last])
      ++last;
    high = _mm256_set1_ps(rule.levels[last]);
  }

  NYBBLE_INLINE __m256 nearest(__m256 y) const {
    const __m256 round = _mm256_round_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm256_min_ps(_mm256_max_ps(round, low), high);
  }
};

// By |y| alone, if mirrored: the square of an error does not depend on the sign.
template <bool kMirrored>
struct Levels {
  static constexpr bool kSize = kMirrored;
  Search<kMirrored ? 3 : 4> search;
  __m256 low, high;

  explicit Levels(const LevelRule& rule)
      : search(rule.thresholds + (kMirrored ? 8 : 0)), low(_mm256_loadu_ps(rule.levels)),
        high(_mm256_loadu_ps(rule.levels + 8)) {}

  NYBBLE_INLINE __m256 nearest(__m256 y) const {
    __m256 upper;
    const __m256i rank = search.rank(y, &upper);
    if (kMirrored) return _mm256_permutevar8x32_ps(high, rank);
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, rank),
                            _mm256_permutevar8x32_ps(high, rank), upper);
  }
};

template <class Of>
void errors_of(const float* x, int64_t n, const Of levels, const float* scale, const float* inv,
               float* const* out) {
  const __m256 scale_a = _mm256_set1_ps(scale[0]), scale_b = _mm256_set1_ps(scale[1]);
  const __m256 inv_a = _mm256_set1_ps(inv[0]), inv_b = _mm256_set1_ps(inv[1]);
  const auto step = [&](int64_t j, __m256i lanes, auto tail) {
    constexpr bool kTail = decltype(tail)::value;
    __m256 v = load<kTail>(x + j, lanes);
    if (Of::kSize) v = _mm256_castsi256_ps(magnitude(v));
    const __m256 near_a = levels.nearest(_mm256_mul_ps(v, inv_a));
    const __m256 near_b = levels.nearest(_mm256_mul_ps(v, inv_b));
    const __m256 miss_a = _mm256_sub_ps(v, _mm256_mul_ps(near_a, scale_a));
    const __m256 miss_b = _mm256_sub_ps(v, _mm256_mul_ps(near_b, scale_b));
    store<kTail>(out[0] + j, lanes, _mm256_mul_ps(miss_a, miss_a));
    store<kTail>(out[1] + j, lanes, _mm256_mul_ps(miss_b, miss_b));
  };
  each8(
      n, [&](int64_t j, __m256i lanes) { step(j, lanes, std::false_type()); },
      [&](int64_t j, __m256i lanes) { step(j, lanes, std::true_type()); });
}

void errors(const float* x, int64_t n, const LevelRule& rule, LevelForm form, const float* scale,
            const float* inv, float* const* out) {
  if (form == LevelForm::Mirrored)
    errors_of(x, n, Levels<true>(rule), scale, inv, out);
  else if (form == LevelForm::Whole)
    errors_of(x, n, WholeNumbers(rule), scale, inv, out);
  else
    errors_of(x, n, Levels<false>(rule), scale, inv, out);
}

uint32_t squares(const float* x, int64_t n, float* out) {
  __m256i top = _mm256_setzero_si256();
  const auto step = [&](int64_t j, __m256i lanes, auto tail) {
    constexpr bool kTail = decltype(tail)::value;
    const __m256 v = load<kTail>(x + j, lanes);
    top = _mm256_max_epi32(top, magnitude(v));
    store<kTail>(out + j, lanes, _mm256_mul_ps(v, v));
  };
  each8(
      n, [&](int64_t j, __m256i lanes) { step(j, lanes, std::false_type()); },
      [&](int64_t j, __m256i lanes) { step(j, lanes, std::true_type()); });
  return largest(top);
}

// sums[j] += words[j] - shift
NYBBLE_INLINE void add8(int32_t* sums, __m128i words, __m256i shift) {
  auto* at = reinterpret_cast<__m256i*>(sums);
  const __m256i wide = _mm256_sub_epi32(_mm256_cvtepu16_epi32(words), shift);
  _mm256_storeu_si256(at, _mm256_add_epi32(_mm256_loadu_si256(at), wide));
}

// The integers plus 128 are unsigned bytes, of which 257 fit 16 bits.
constexpr int64_t kNarrowRows = 257;

void add_codes(const uint8_t* packed, int64_t step, int64_t rows, const int8_t* table,
               int32_t* sums) {
  const __m256i zero = _mm256_setzero_si256(), nibble = _mm256_set1_epi8(15);
  const __m256i values = _mm256_xor_si256(
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))),
      _mm256_set1_epi8(char(0x80)));
  for (int64_t from = 0; from < rows; from += kNarrowRows) {
    const int64_t count = rows - from < kNarrowRows ? rows - from : kNarrowRows;
    __m256i narrow[4] = {zero, zero, zero, zero};
    for (int64_t row = 0; row < count; ++row, packed += step) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(packed));
      const __m256i low = _mm256_shuffle_epi8(values, _mm256_and_si256(both, nibble));
      const __m256i high =
          _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble));
      narrow[0] = _mm256_add_epi16(narrow[0], _mm256_unpacklo_epi8(low, zero));
      narrow[1] = _mm256_add_epi16(narrow[1], _mm256_unpackhi_epi8(low, zero));
      narrow[2] = _mm256_add_epi16(narrow[2], _mm256_unpacklo_epi8(high, zero));
      narrow[3] = _mm256_add_epi16(narrow[3], _mm256_unpackhi_epi8(high, zero));
    }
    // unpacklo and unpackhi take 8 of 16 bytes in each half of a register.
    const __m256i shift = _mm256_set1_epi32(int(128 * count));
    for (int k = 0; k < 4; ++k) {
      int32_t* to = sums + 32 * (k / 2) + 8 * (k % 2);
      add8(to, _mm256_castsi256_si128(narrow[k]), shift);
      add8(to + 16, _mm256_extracti128_si256(narrow[k], 1), shift);
    }
  }
}

void add(float* a, const float* b, int64_t n) {
  const auto step = [&](int64_t j, __m256i lanes, auto tail) {
    constexpr bool kTail = decltype(tail)::value;
    store<kTail>(a + j, lanes, _mm256_add_ps(load<kTail>(a + j, lanes), load<kTail>(b + j, lanes)));
  };
  each8(
      n, [&](int64_t j, __m256i lanes) { step(j, lanes, std::false_type()); },
      [&](int64_t j, __m256i lanes) { step(j, lanes, std::true_type()); });
}

void add_product(float* out, int64_t n, float e, const float* mu) {
  const __m256 factor = _mm256_set1_ps(e);
  const auto step = [&](int64_t j, __m256i lanes, auto tail) {
    constexpr bool kTail = decltype(tail)::value;
    const __m256 product = _mm256_mul_ps(factor, load<kTail>(mu + j, lanes));
    store<kTail>(out + j, lanes, _mm256_add_ps(load<kTail>(out + j, lanes), product));
  };
  each8(
      n, [&](int64_t j, __m256i lanes) { step(j, lanes, std::false_type()); },
      [&](int64_t j, __m256i lanes) { step(j, lanes, std::true_type()); });
}

} // namespace

const LineKernels kLineAvx2 = {folded,    scaled, errors,      squares,
                               add_codes, add,    add_product, rounded_avx2};

} // namespace nybble
