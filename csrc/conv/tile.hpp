// A tile of sums becomes floats: float32(acc) * (row * column) + bias, one rounding an operation.
#pragma once

#include <cstdint>
#include <cstring>

#include "conv/pack.hpp"
#include "gemm/micro.hpp"

namespace nybble {

// `rows` x `columns` of the tile go to out[r]; column and bias point at whole panels.
inline void finish_tile(const ConvKernels& k, const int32_t* acc, int rows, int columns,
                        const float* row, const float* column, const float* bias,
                        float* const* out) {
  if (columns == kColumns) return k.finish(acc, rows, row, column, bias, out);
  float whole[kTile];
  float* lines[kRows];
  for (int r = 0; r < kRows; ++r)
    lines[r] = whole + r * kColumns;
  k.finish(acc, rows, row, column, bias, lines);
  for (int r = 0; r < rows; ++r)
    std::memcpy(out[r], lines[r], sizeof(float) * size_t(columns));
}

// The same from 64-bit sums.
inline void finish_tile(const int64_t* acc, int rows, int columns, const float* row,
                        const float* column, const float* bias, float* const* out) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      const float value = float(acc[r * kColumns + c]) * (row[r] * column[c]);
      out[r][c] = bias == nullptr ? value : value + bias[c];
    }
}

} // namespace nybble
