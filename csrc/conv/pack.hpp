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

  // A tile begins: acc[r][c] = correction[c].
  void (*start)(const int32_t* correction, int32_t* acc);

  // out[r][c] = float32(acc) * (row[r] * column[c]) + bias[c] for whole rows of a tile; bias may be
  // null. `count` rows.
  void (*finish)(const int32_t* acc, int count, const float* row, const float* column,
                 const float* bias, float* const* out);

  // Channel by channel (depthwise.hpp), words, kColumns channels:
  // acc[p * acc_step + c] = sum over i < 2 * pairs of from[p * step + offsets[i] + c] * w[i][c],
  // steps and offsets in words; w holds pairs of taps, channels in the order of kUnpackOrder:
  // weights[pair][channel][2].
  void (*weigh)(const int16_t* from, int64_t pixels, int64_t step, const int64_t* offsets,
                int64_t pairs, const int16_t* weights, int32_t* acc, int64_t acc_step);
  // The same sums, at once out[p * out_step + c] = float32(sum) * scale[c] + bias[c]; bias may be
  // null.
  void (*weigh_finish)(const int16_t* from, int64_t pixels, int64_t step, const int64_t* offsets,
                       int64_t pairs, const int16_t* weights, const float* scale, const float* bias,
                       float* out, int64_t out_step);
  // acc[c] += sum over g < groups, i < 2 of a[g][c][i] * b[g][c][i]
  void (*dot)(const int16_t* a, const int16_t* b, int64_t groups, int32_t* acc);
  // out[i] = float32(acc[i]) * scale[i] + bias[i]; bias may be null
  void (*finish_line)(const int32_t* acc, int64_t count, const float* scale, const float* bias,
                      float* out);
};

// The order in which unpacking two registers of 16 words leaves the channels.
constexpr int kUnpackOrder[kColumns] = {0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15};

extern const ConvKernels kConvGeneric;
extern const ConvKernels kConvAvx2;

} // namespace nybble
