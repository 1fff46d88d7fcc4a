#include "decode.hpp"
#include "unpack.hpp"

namespace nybble {
namespace {

template <class T>
void decode(const uint8_t* packed, int64_t start, int64_t count, const T* table, T* out) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = start + i, block = at / int64_t(kBlockCodes), inside = at % kBlockCodes;
    const uint8_t both = packed[block * int64_t(kBlockBytes) + inside % int64_t(kBlockBytes)];
    out[i] = table[inside < int64_t(kBlockBytes) ? both & 15 : both >> 4];
  }
}

} // namespace

const DecodeKernels kDecodeGeneric = {decode<int8_t>, decode<int16_t>};

} // namespace nybble
