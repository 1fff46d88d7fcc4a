// Packed 4-bit codes -> small integers, through a table of 16: one decode for every format.
//
// The table does sign, offset, doubling (E2M1) and powers (radix 4) at no cost: a register of 32
// codes is one vpshufb. The range may start and end anywhere in the flat array; see unpack.hpp for
// the layout of a block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nybble {

struct DecodeKernels {
  // out[i] = table[code[start + i]], 0 <= i < count
  void (*bytes)(const uint8_t* packed, int64_t start, int64_t count, const int8_t* table,
                int8_t* out);
  void (*words)(const uint8_t* packed, int64_t start, int64_t count, const int16_t* table,
                int16_t* out);
};

extern const DecodeKernels kDecodeGeneric;
extern const DecodeKernels kDecodeAvx2;

} // namespace nybble
