#include <immintrin.h>

#include "decode.hpp"
#include "unpack.hpp"

namespace nybble {
namespace {

struct Bytes {
  using T = int8_t;
  __m256i table;
  explicit Bytes(const int8_t* values)
      : table(_mm256_broadcastsi128_si256(
            _mm_loadu_si128(reinterpret_cast<const __m128i*>(values)))) {}
  void store(__m256i codes, int8_t* out) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_shuffle_epi8(table, codes));
  }
};

struct Words {
  using T = int16_t;
  __m256i low, high; // the two bytes of every value
  explicit Words(const int16_t* values) {
    alignas(16) uint8_t l[16], h[16];
    for (int i = 0; i < 16; ++i) {
      l[i] = uint8_t(uint16_t(values[i]) & 255);
      h[i] = uint8_t(uint16_t(values[i]) >> 8);
    }
    low = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(l)));
    high = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(h)));
  }
  void store(__m256i codes, int16_t* out) const {
    // Codes 0..7,16..23 to one lane pair each, so that the in-lane unpacks come out in order.
    codes = _mm256_permute4x64_epi64(codes, 0xd8);
    const __m256i l = _mm256_shuffle_epi8(low, codes), h = _mm256_shuffle_epi8(high, codes);
    auto* to = reinterpret_cast<__m256i*>(out);
    _mm256_storeu_si256(to, _mm256_unpacklo_epi8(l, h));
    _mm256_storeu_si256(to + 1, _mm256_unpackhi_epi8(l, h));
  }
};

template <class Table>
void decode(const uint8_t* packed, int64_t start, int64_t count, const typename Table::T* values,
            typename Table::T* out) {
  const Table table(values);
  const __m256i nibble = _mm256_set1_epi8(15);
  const int64_t end = start + count;
  int64_t at = start;
  while (at < end) {
    const uint8_t* bytes = packed + at / 64 * 32;
    const int64_t inside = at % 64;
    if (inside % 32 == 0 && end - at >= 32) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
      if (inside == 0) {
        table.store(_mm256_and_si256(both, nibble), out);
        if (end - at >= 64) {
          table.store(_mm256_and_si256(_mm256_srli_epi16(both, 4), nibble), out + 32);
          out += 64, at += 64;
          continue;
        }
      } else {
        table.store(_mm256_and_si256(_mm256_srli_epi16(both, 4), nibble), out);
      }
      out += 32, at += 32;
      continue;
    }
    const int64_t half_end = at / 32 * 32 + 32, stop = half_end < end ? half_end : end;
    for (int64_t i = inside; at < stop; ++at, ++i)
      *out++ = values[i < 32 ? bytes[i] & 15 : bytes[i - 32] >> 4];
  }
}

} // namespace

const DecodeKernels kDecodeAvx2 = {decode<Bytes>, decode<Words>};

} // namespace nybble
