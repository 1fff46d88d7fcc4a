#include <immintrin.h>

#include "unpack.hpp"

namespace nybble {

void unpack4_avx2(const uint8_t* bytes, size_t blocks, uint8_t* codes) {
  const __m256i nibble = _mm256_set1_epi8(15);
  for (size_t b = 0; b < blocks; ++b, bytes += kBlockBytes, codes += kBlockCodes) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    // There is no 8-bit shift: shift 16-bit lanes and mask off what came in from the neighbour.
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), nibble);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), _mm256_and_si256(both, nibble));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + kBlockBytes), high);
  }
}

} // namespace nybble
