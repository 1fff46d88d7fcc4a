// The rank-1 part of grad_weight: column sums of codes, and the outer product that is added.
#include <algorithm>

#include "core/decode.hpp"
#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "lines/lines.hpp"

namespace nybble {
namespace {

constexpr int64_t kBlock = 64;         // codes
constexpr int64_t kWide = 32 * kBlock; // columns of a task
constexpr int64_t kTogether = 32;      // rows
constexpr int64_t kRows = 16;          // rows of a task of add_outer
constexpr int64_t kDepth = 1 << 22;    // 2^22 * 128 fits 32 bits
constexpr int64_t kOddColumns = 512;   // of a task, where rows do not begin with a block

// `count` columns from `first` on; all rows begin with a block. A few rows at a time, so that the
// cache lines which two blocks share are still there for the second one: rows whose distance is a
// large power of two compete for the same few places of the first cache.
void block_sums(const uint8_t* packed, const int8_t* table, int64_t rows, int64_t columns,
                int64_t first, int64_t count, int64_t* sums) {
  std::fill(sums, sums + count, int64_t(0));
  for (int64_t from = 0; from < rows; from += kDepth) {
    const int64_t until = std::min(from + kDepth, rows);
    int32_t part[kWide] = {};
    for (int64_t row = from; row < until; row += kTogether)
      for (int64_t j = 0; j < count; j += kBlock)
        active().lines->add_codes(packed + (row * columns + first + j) / 2, columns / 2,
                                  std::min(kTogether, until - row), table, part + j);
    for (int64_t j = 0; j < count; ++j)
      sums[j] += part[j];
  }
}

// Any columns, by decoding them.
void odd_sums(const uint8_t* packed, const int8_t* table, int64_t rows, int64_t columns,
              int64_t first, int64_t count, int64_t* sums) {
  int8_t values[kOddColumns];
  std::fill(sums, sums + count, int64_t(0));
  for (int64_t row = 0; row < rows; ++row) {
    active().decode->bytes(packed, row * columns + first, count, table, values);
    for (int64_t j = 0; j < count; ++j)
      sums[j] += values[j];
  }
}

} // namespace

void column_sums(const uint8_t* packed, const int8_t* table, int64_t rows, int64_t columns,
                 int64_t* sums, int threads) {
  if (columns % kBlock == 0) {
    const int64_t blocks = columns / kBlock;
    const int64_t share = (blocks + std::max(threads, 1) - 1) / std::max(threads, 1) * kBlock;
    const int64_t wide = std::min(kWide, std::max(share, kBlock));
    parallel_for(threads, (columns + wide - 1) / wide, [&](int64_t task) {
      const int64_t first = task * wide, count = std::min(wide, columns - first);
      block_sums(packed, table, rows, columns, first, count, sums + first);
    });
    return;
  }
  parallel_for(threads, (columns + kOddColumns - 1) / kOddColumns, [&](int64_t task) {
    const int64_t first = task * kOddColumns;
    odd_sums(packed, table, rows, columns, first, std::min(kOddColumns, columns - first),
             sums + first);
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
