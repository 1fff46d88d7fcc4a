#include <immintrin.h>

#include <cstring>

#include "quantize/streams.hpp"

#define NYBBLE_INLINE inline __attribute__((always_inline))

namespace nybble {
namespace {

NYBBLE_INLINE __m256i load8(const uint32_t* x) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
}

// bfloat16: the upper halves of floats, two in a dword. Their order does not matter here, so the
// odd ones stay where they are and the even ones are shifted up.
NYBBLE_INLINE __m256i larger(__m256i top, __m256i x) {
  return _mm256_max_epi32(top, _mm256_and_si256(x, _mm256_set1_epi32(0x7fffffff)));
}

uint32_t absmax(const void* x, bool bf16, int64_t n) {
  __m256i top[4];
  for (__m256i& t : top)
    t = _mm256_setzero_si256();
  const int64_t step = bf16 ? 64 : 32;
  int64_t at = 0;
  for (; at + step <= n; at += step) {
    const auto* words = static_cast<const uint32_t*>(x) + (bf16 ? at / 2 : at);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m256i both = load8(words + 8 * j);
      top[j] = larger(top[j], both);
      if (bf16) top[j] = larger(top[j], _mm256_slli_epi32(both, 16));
    }
  }
  alignas(32) uint32_t lanes[32];
  for (int j = 0; j < 4; ++j)
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes) + j, top[j]);
  uint32_t out = 0;
  for (uint32_t lane : lanes)
    out = lane > out ? lane : out;
  if (bf16) out &= 0xffff0000u; // an odd one had its neighbour below it
  for (; at < n; ++at) {
    uint32_t b = bf16 ? uint32_t(static_cast<const uint16_t*>(x)[at]) << 16
                      : static_cast<const uint32_t*>(x)[at];
    b &= 0x7fffffffu;
    out = b > out ? b : out;
  }
  return out;
}

// Registers of four counters, several at a time, so that one's multiplications hide behind the
// others'. The words live in the lower halves of 64-bit lanes; what gathers in the upper halves is
// never read, since vpmuludq multiplies the lower ones. Counters that share the upper half of their
// number differ in one word only, so that some words of the first three rounds are constants.
constexpr int kTogether = 4;
constexpr uint64_t kM0 = 0xD2511F53, kM1 = 0xCD9E8D57;

class Philox {
public:
  // `high`: the upper half of the counters' number.
  Philox(const RandomStream& s, uint32_t high) {
    const auto key = [&](uint32_t round, int word) {
      return word == 0 ? s.key0 + round * 0x9E3779B9u : s.key1 + round * 0xBB67AE85u;
    };
    const uint64_t p1 = s.call * kM1;
    const uint32_t c0 = uint32_t(p1 >> 32) ^ (s.operand + high) ^ key(0, 0);
    const uint64_t p0 = c0 * kM0;
    second_ = every(s.place ^ key(0, 1));
    third_[0] = every(uint32_t(p1) ^ key(1, 0));
    third_[1] = every(uint32_t(p0 >> 32) ^ key(1, 1));
    fourth_[0] = every(key(2, 0));
    fourth_[1] = every(uint32_t(p0) ^ key(2, 1));
    for (uint32_t round = 3; round < 10; ++round)
      for (int word = 0; word < 2; ++word)
        key_[round][word] = every(key(round, word));
  }

  // Elements 4 b .. 4 b + 16 kMany - 1, in order.
  template <int kMany>
  NYBBLE_INLINE void words(int64_t b, int32_t* out) const {
    words<kMany>(b, 4, out);
  }

  // Elements 4 (b + j step) .. + 15 for j < kMany, one behind the other.
  template <int kMany>
  NYBBLE_INLINE void words(int64_t b, int64_t step, int32_t* out) const {
    const __m256i m0 = _mm256_set1_epi64x(kM0), m1 = _mm256_set1_epi64x(kM1);
    __m256i c0[kMany], c1[kMany], c2[kMany], c3[kMany];
#pragma GCC unroll 4
    for (int j = 0; j < kMany; ++j) {
      // Lanes 0, 2, 1, 3: the order in which the words come together below.
      const __m256i counter =
          _mm256_add_epi64(_mm256_set1_epi64x(b + step * j), _mm256_setr_epi64x(0, 2, 1, 3));
      c3[j] = _mm256_mul_epu32(counter, m0);
      c2[j] = _mm256_xor_si256(_mm256_srli_epi64(c3[j], 32), second_);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kMany; ++j) {
      c1[j] = _mm256_mul_epu32(c2[j], m1);
      c0[j] = _mm256_xor_si256(_mm256_srli_epi64(c1[j], 32), third_[0]);
      c2[j] = _mm256_xor_si256(c3[j], third_[1]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kMany; ++j) {
      const __m256i p0 = _mm256_mul_epu32(c0[j], m0), p1 = _mm256_mul_epu32(c2[j], m1);
      c0[j] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_xor_si256(c1[j], fourth_[0]));
      c2[j] = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), fourth_[1]);
      c1[j] = p1, c3[j] = p0;
    }
#pragma GCC unroll 7
    for (int round = 3; round < 10; ++round)
#pragma GCC unroll 4
      for (int j = 0; j < kMany; ++j) {
        const __m256i p0 = _mm256_mul_epu32(c0[j], m0), p1 = _mm256_mul_epu32(c2[j], m1);
        const __m256i x0 = _mm256_xor_si256(c1[j], key_[round][0]);
        const __m256i x1 = _mm256_xor_si256(c3[j], key_[round][1]);
        c0[j] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), x0);
        c2[j] = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), x1);
        c1[j] = p1, c3[j] = p0;
      }
    auto* to = reinterpret_cast<__m256i*>(out);
#pragma GCC unroll 4
    for (int j = 0; j < kMany; ++j) {
      const __m256 w01 = lower(c0[j], c1[j]), w23 = lower(c2[j], c3[j]);
      const __m256i first = _mm256_castps_si256(_mm256_shuffle_ps(w01, w23, 0x88));
      const __m256i second = _mm256_castps_si256(_mm256_shuffle_ps(w01, w23, 0xdd));
      _mm256_storeu_si256(to + 2 * j, _mm256_srli_epi32(first, 8));
      _mm256_storeu_si256(to + 2 * j + 1, _mm256_srli_epi32(second, 8));
    }
  }

private:
  static __m256i every(uint32_t word) { return _mm256_set1_epi64x(word); }
  // The lower halves of two registers' lanes.
  static NYBBLE_INLINE __m256 lower(__m256i a, __m256i b) {
    return _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88);
  }

  __m256i second_, third_[2], fourth_[2], key_[10][2];
};

void random24(const RandomStream& s, int64_t start, int64_t n, int32_t* out) {
  uint32_t high = uint32_t(start / 4 >> 32);
  Philox philox(s, high);
  while (n > 0) {
    const int64_t block = start / 4, inside = start % 4;
    // The last counter of a call may have another upper half: then a few words are wasted.
    const auto same = [&](int64_t many) { return (block + 4 * many - 1) >> 32 == block >> 32; };
    if (uint32_t(block >> 32) != high) philox = Philox(s, high = uint32_t(block >> 32));
    int64_t count = 16 * kTogether;
    if (inside == 0 && n >= count && same(kTogether)) {
      philox.words<kTogether>(block, out);
    } else {
      int32_t words[32];
      philox.words<2>(block, words);
      count =
          same(2) ? 32 - inside : 4 * ((int64_t(high) + 1) * (int64_t(1) << 32) - block) - inside;
      count = count < n ? count : n;
      std::memcpy(out, words + inside, size_t(count) * 4);
    }
    start += count, n -= count, out += count;
  }
}

NYBBLE_INLINE void transpose8(const int32_t* in, int64_t in_stride, int32_t* out,
                              int64_t out_stride) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i)
    a[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(in + i * in_stride));
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
  auto* to = reinterpret_cast<float*>(out);
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * out_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * out_stride, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

// Eight rows of 16 elements at a time, where rows begin with a counter.
void random24_across(const RandomStream& s, int64_t start, int64_t step, int64_t rows, int64_t n,
                     int32_t* out) {
  const int64_t last = start + (rows - 1) * step + n - 1;
  if (rows % 8 != 0 || n % 16 != 0 || start % 4 != 0 || step % 4 != 0 ||
      start / 4 >> 32 != last / 4 >> 32)
    return random24_across_generic(s, start, step, rows, n, out);
  const Philox philox(s, uint32_t(start / 4 >> 32));
  alignas(32) int32_t words[8 * 16];
  for (int64_t r = 0; r < rows; r += 8)
    for (int64_t i = 0; i < n; i += 16) {
      const int64_t block = (start + r * step + i) / 4;
      philox.words<4>(block, step / 4, words);
      philox.words<4>(block + step, step / 4, words + 64);
      transpose8(words, 16, out + i * rows + r, rows);
      transpose8(words + 8, 16, out + (i + 8) * rows + r, rows);
    }
}

// vpmuldq multiplies the lower halves of 64-bit lanes, signed: weights up to 2^31 fit.
uint64_t fingerprint(const uint32_t* x, int64_t start, int64_t n) {
  constexpr int64_t kMost = int64_t(1) << 30;
  if (start + n > kMost) return fingerprint_generic(x, start, n);
  __m256i even = _mm256_set1_epi64x(2 * start + 1);
  even = _mm256_add_epi64(even, _mm256_setr_epi64x(0, 4, 8, 12));
  __m256i odd = _mm256_add_epi64(even, _mm256_set1_epi64x(2));
  const __m256i step = _mm256_set1_epi64x(16);
  __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  int64_t at = 0;
  for (; at + 8 <= n; at += 8) {
    const __m256i v = load8(x + at);
    sums[0] = _mm256_add_epi64(sums[0], _mm256_mul_epi32(v, even));
    sums[1] = _mm256_add_epi64(sums[1], _mm256_mul_epi32(_mm256_srli_epi64(v, 32), odd));
    even = _mm256_add_epi64(even, step), odd = _mm256_add_epi64(odd, step);
  }
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi64(sums[0], sums[1]));
  return lanes[0] + lanes[1] + lanes[2] + lanes[3] +
         fingerprint_generic(x + at, start + at, n - at);
}

void transpose16(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t out_stride) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; ++i)
    a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i * in_stride));
  // Four rounds of the perfect shuffle: unpacking row i with row i + 8 moves one bit of the row
  // number into the column number each time.
  __m128i *from = a, *to = b;
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      to[2 * i] = _mm_unpacklo_epi8(from[i], from[i + 8]);
      to[2 * i + 1] = _mm_unpackhi_epi8(from[i], from[i + 8]);
    }
    __m128i* swap = from;
    from = to, to = swap;
  }
  for (int i = 0; i < 16; ++i)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * out_stride), from[i]);
}

void pack4(const uint8_t* bytes, int64_t n, uint8_t* codes) {
  for (int64_t at = 0; at < n; at += 64) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + at));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + at + 32));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + at / 2),
                        _mm256_or_si256(low, _mm256_slli_epi16(high, 4)));
  }
}

} // namespace

const StreamKernels kStreamAvx2 = {absmax,      random24,    random24_across,
                                   fingerprint, transpose16, pack4};

} // namespace nybble
