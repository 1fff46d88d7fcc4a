// The rank-1 part of grad_weight: column sums of codes, and the outer product that is added.
#include <algorithm>

#include "core/decode.hpp"
#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "lines/lines.hpp"

namespace nybble {
namespace {

constexpr int64_t kBlock = 64;       // codes
constexpr int64_t kRows = 16;        // rows of a task of add_outer
constexpr int64_t kDepth = 1 << 22;  // 2^22 * 128 fits 32 bits
constexpr int64_t kOddColumns = 512; // of a task, where rows do not begin with a block

// Columns [64 task, ..): all rows begin with a block.
void block_sums(const uint8_t* packed, const int8_t* table, int64_t rows, int64_t columns,
                int64_t first, int64_t* sums) {
  const int64_t step = columns / 2;
  std::fill(sums, sums + kBlock, int64_t(0));
  for (int64_t from = 0; from < rows; from += kDepth) {
    int32_t part[kBlock] = {};
    active().lines->add_codes(packed + (from * columns + first) / 2, step,
                              std::min(kDepth, rows - from), table, part);
    for (int64_t j = 0; j < kBlock; ++j)
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
    parallel_for(threads, columns / kBlock, [&](int64_t task) {
      block_sums(packed, table, rows, columns, task * kBlock, sums + task * kBlock);
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
