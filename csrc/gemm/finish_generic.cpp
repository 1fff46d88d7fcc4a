#include "gemm/finish.hpp"

#include "gemm/micro.hpp"

namespace nybble {
namespace {

void begin(const int32_t* for_rows, const int32_t* for_columns, int32_t* acc) {
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c)
      acc[r * kColumns + c] = for_rows[r] + for_columns[c];
}

void tile(const int32_t* acc, int rows, int columns, const float* scale_a, const float* scale_b,
          const float* bias, float* out, int64_t stride) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) {
      const float scale = scale_a[r] * scale_b[c];
      float result = float(acc[r * kColumns + c]) * scale;
      if (bias != nullptr) result = result + bias[c];
      out[r * stride + c] = result;
    }
}

void block(const int32_t* acc, const float* scale_a, const float* scale_b, float* sum) {
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kColumns; ++c) {
      const float scale = scale_a[r] * scale_b[c];
      const float product = float(acc[r * kColumns + c]) * scale;
      sum[r * kColumns + c] = sum[r * kColumns + c] + product;
    }
}

} // namespace

const FinishKernels kFinishGeneric = {begin, tile, block};

} // namespace nybble
