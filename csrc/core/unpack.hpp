// Packed 4-bit codes -> one code a byte.
//
// Layout: a block of 64 codes takes 32 bytes, byte i = code[i] | code[i + 32] << 4. Splitting by
// halves, not by neighbours, lets a 32-byte register unpack with one mask and one shift.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nybble {

constexpr size_t kBlockCodes = 64;
constexpr size_t kBlockBytes = 32;
static_assert(kBlockCodes == 2 * kBlockBytes, "two codes a byte");

void unpack4_generic(const uint8_t* bytes, size_t blocks, uint8_t* codes);
void unpack4_avx2(const uint8_t* bytes, size_t blocks, uint8_t* codes);

} // namespace nybble
