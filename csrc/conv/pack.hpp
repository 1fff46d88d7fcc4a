// Moves between decoded elements, panels and results: what surrounds the micro kernels.
//
// A group of a panel is 4 bytes of one row: 4 byte elements or 2 words that are neighbours in k.
#pragma once

#include <cstdint>

#include "gemm/micro.hpp"

namespace nybble {

struct ConvKernels {
  // k runs along memory: out[g][r] = the 4 bytes at rows[r] + 4 g, for kRows or kColumns rows.
  void (*gather_rows)(const uint8_t* const* rows, int64_t groups, uint8_t* out);
  void (*gather_columns)(const uint8_t* const* rows, int64_t groups, uint8_t* out);

  // k runs across memory: element i of group g of row r is element r of the line at
  // lines[g * Q + i] + offset; Q = 4 for bytes, 2 for words.
  void (*cross_rows[2])(const uint8_t* const* lines, int64_t offset, int64_t groups, uint8_t* out);
  void (*cross_columns[2])(const uint8_t* const* lines, int64_t offset, int64_t groups,
                           uint8_t* out);

  // out[r][c] = float32(acc) * (row[r] * column[c]) + bias[c] for whole rows of a tile; bias may be
  // null. `count` rows.
  void (*finish)(const int32_t* acc, int count, const float* row, const float* column,
                 const float* bias, float* const* out);
};

extern const ConvKernels kConvGeneric;
extern const ConvKernels kConvAvx2;

} // namespace nybble
