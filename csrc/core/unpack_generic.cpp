#include "unpack.hpp"

namespace nybble {

void unpack4_generic(const uint8_t* bytes, size_t blocks, uint8_t* codes) {
  for (size_t b = 0; b < blocks; ++b, bytes += kBlockBytes, codes += kBlockCodes)
    for (size_t i = 0; i < kBlockBytes; ++i) {
      codes[i] = bytes[i] & 15u;
      codes[i + kBlockBytes] = static_cast<uint8_t>(bytes[i] >> 4);
    }
}

} // namespace nybble
