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

// Several registers of four counters at a time, so that one's multiplications hide behind the
// others'. The words live in the lower halves of 64-bit lanes; what gathers in the upper halves is
// never read, since vpmuludq multiplies the lower ones.
constexpr int kTogether = 4;

struct Philox {
  __m256i key[10][2];
  __m256i operand, call, place;

  explicit Philox(const RandomStream& s)
      : operand(_mm256_set1_epi64x(s.operand)), call(_mm256_set1_epi64x(s.call)),
        place(_mm256_set1_epi64x(s.place)) {
    for (uint32_t round = 0; round < 10; ++round) {
      key[round][0] = _mm256_set1_epi32(int(s.key0 + round * 0x9E3779B9u));
      key[round][1] = _mm256_set1_epi32(int(s.key1 + round * 0xBB67AE85u));
    }
  }

  // Elements 4 b .. 4 b + 16 kMany - 1, in order.
  template <int kMany>
  NYBBLE_INLINE void words(int64_t b, int32_t* out) const {
    const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
    __m256i c0[kMany], c1[kMany], c2[kMany], c3[kMany];
#pragma GCC unroll 4
    for (int j = 0; j < kMany; ++j) {
      c0[j] = _mm256_add_epi64(_mm256_set1_epi64x(b + 4 * j), _mm256_setr_epi64x(0, 1, 2, 3));
      c1[j] = _mm256_add_epi64(_mm256_srli_epi64(c0[j], 32), operand);
      c2[j] = call, c3[j] = place;
    }
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round)
#pragma GCC unroll 4
      for (int j = 0; j < kMany; ++j) {
        const __m256i p0 = _mm256_mul_epu32(c0[j], m0), p1 = _mm256_mul_epu32(c2[j], m1);
        const __m256i x0 = _mm256_xor_si256(c1[j], key[round][0]);
        const __m256i x1 = _mm256_xor_si256(c3[j], key[round][1]);
        c0[j] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), x0);
        c2[j] = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), x1);
        c1[j] = p1, c3[j] = p0;
      }
    auto* to = reinterpret_cast<__m256i*>(out);
#pragma GCC unroll 4
    for (int j = 0; j < kMany; ++j) {
      const __m256i w01 = _mm256_blend_epi32(c0[j], _mm256_slli_epi64(c1[j], 32), 0xaa);
      const __m256i w23 = _mm256_blend_epi32(c2[j], _mm256_slli_epi64(c3[j], 32), 0xaa);
      const __m256i even = _mm256_srli_epi32(_mm256_unpacklo_epi64(w01, w23), 8);
      const __m256i odd = _mm256_srli_epi32(_mm256_unpackhi_epi64(w01, w23), 8);
      _mm256_storeu_si256(to + 2 * j, _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256(to + 2 * j + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
  }
};

void random24(const RandomStream& s, int64_t start, int64_t n, int32_t* out) {
  const Philox philox(s);
  while (n > 0) {
    const int64_t inside = start % 4;
    int64_t count = 16 * kTogether;
    if (inside == 0 && n >= count) {
      philox.words<kTogether>(start / 4, out);
    } else {
      int32_t words[32];
      philox.words<2>(start / 4, words);
      count = 32 - inside < n ? 32 - inside : n;
      std::memcpy(out, words + inside, size_t(count) * 4);
    }
    start += count, n -= count, out += count;
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

const StreamKernels kStreamAvx2 = {absmax, random24, fingerprint, transpose16, pack4};

} // namespace nybble
