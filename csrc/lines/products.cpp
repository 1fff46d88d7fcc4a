// The rank-1 part of grad_weight: column sums of codes, and the outer product that is added.
#include <algorithm>
#include <cstring>

#include "core/decode.hpp"
#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "lines/lines.hpp"

namespace nybble {
namespace {

constexpr int64_t kWidth = 512; // columns of a task
constexpr int64_t kDepth = 255; // 255 * 128 fits 16 bits
constexpr int64_t kRows = 16;   // rows of a task of add_outer

} // namespace

void column_sums(const uint8_t* packed, const int8_t* table, int64_t rows, int64_t columns,
                 int64_t* sums, int threads) {
  const Kernels& set = active();
  parallel_for(threads, (columns + kWidth - 1) / kWidth, [&](int64_t task) {
    const int64_t first = task * kWidth, count = std::min(kWidth, columns - first);
    int8_t values[kWidth];
    int16_t narrow[kWidth];
    std::fill(sums + first, sums + first + count, int64_t(0));
    for (int64_t from = 0; from < rows; from += kDepth) {
      std::memset(narrow, 0, sizeof narrow);
      for (int64_t row = from; row < std::min(from + kDepth, rows); ++row) {
        set.decode->bytes(packed, row * columns + first, count, table, values);
        set.lines->add_values(values, count, narrow);
      }
      for (int64_t j = 0; j < count; ++j)
        sums[first + j] += narrow[j];
    }
  });
}

void add_outer(float* out, int64_t rows, int64_t columns, const float* e, const float* mu,
               int threads) {
  const LineKernels& kernels = *active().lines;
  parallel_for(threads, (rows + kRows - 1) / kRows, [&](int64_t task) {
    for (int64_t row = task * kRows; row < std::min((task + 1) * kRows, rows); ++row)
      kernels.add_product(out + row * columns, columns, e[row], mu);
  });
}

} // namespace nybble
