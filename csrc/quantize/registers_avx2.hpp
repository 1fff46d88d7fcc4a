// What the pack kernels do with registers of floats and of codes; pack_avx2.cpp explains the order.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define NYBBLE_INLINE inline __attribute__((always_inline))

namespace nybble {
namespace {

NYBBLE_INLINE __m256i bits(__m256 x) { return _mm256_castps_si256(x); }

NYBBLE_INLINE __m256i magnitude_bits(__m256i x) {
  return _mm256_and_si256(x, _mm256_set1_epi32(0x7fffffff));
}

NYBBLE_INLINE __m256i pack_order(__m256i a, __m256i b, __m256i c, __m256i d) {
  return _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}

NYBBLE_INLINE __m256i in_order(__m256i packed) {
  return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

NYBBLE_INLINE __m256i table16(const uint8_t* table) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
}

} // namespace
} // namespace nybble
