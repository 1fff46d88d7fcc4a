// Transposing matrices of packed codes: NCHW <-> NHWC image by image, OIHW <-> OHWI filter by
// filter.
//
// Blocks of 64 codes run through all matrices, so a task takes as few matrices as end on a block:
// codes to bytes, bytes transposed in tiles of 16, bytes to codes. Where those would be too many
// bytes to hold (large matrices of odd sizes), or there is no memory for them, code by code.
#include <algorithm>
#include <memory>
#include <new>
#include <numeric>

#include "core/decode.hpp"
#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "quantize/drivers.hpp"

namespace nybble {
namespace {

constexpr int64_t kTile = 16;
constexpr int64_t kMostBytes = int64_t(1) << 20;

int code_at(const uint8_t* codes, int64_t i) {
  const uint8_t byte = codes[i / 64 * 32 + i % 32];
  return i % 64 < 32 ? byte & 15 : byte >> 4;
}

void transpose(const StreamKernels& kernels, const uint8_t* in, int64_t rows, int64_t columns,
               uint8_t* out) {
  const int64_t whole_rows = rows / kTile * kTile, whole_columns = columns / kTile * kTile;
  for (int64_t i = 0; i < whole_rows; i += kTile)
    for (int64_t j = 0; j < whole_columns; j += kTile)
      kernels.transpose16(in + i * columns + j, columns, out + j * rows + i, rows);
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = j < whole_columns ? whole_rows : 0; i < rows; ++i)
      out[j * rows + i] = in[i * columns + j];
}

// Output elements [begin, end), begin a multiple of 64, each looked up.
void one_by_one(const uint8_t* codes, int64_t rows, int64_t columns, int64_t begin, int64_t end,
                uint8_t* out) {
  const int64_t size = rows * columns;
  for (int64_t at = begin; at < end; at += 64) {
    uint8_t* block = out + at / 2;
    std::fill(block, block + 32, uint8_t(0));
    for (int64_t i = 0; i < 64 && at + i < end; ++i) {
      const int64_t matrix = (at + i) / size, in = (at + i) % size;
      const int64_t from = matrix * size + in % rows * columns + in / rows;
      block[i % 32] = uint8_t(block[i % 32] | code_at(codes, from) << (i < 32 ? 0 : 4));
    }
  }
}

} // namespace

void relayout(const uint8_t* codes, int64_t n, int64_t rows, int64_t columns, uint8_t* out,
              int threads) {
  static const int8_t same[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Kernels& set = active();
  const int64_t size = rows * columns, all = n * size;
  if (all == 0) return;
  int64_t group = 64 / std::gcd(size, int64_t(64));
  const bool looks_up = std::min(group, n) > kMostBytes / size;
  if (!looks_up) group *= std::max<int64_t>(1, (kMostBytes >> 4) / (group * size));
  const int64_t task = looks_up ? kMostBytes : group * size;
  parallel_for(threads, (all + task - 1) / task, [&](int64_t item) {
    const int64_t begin = item * task, end = std::min(begin + task, all), count = end - begin;
    const int64_t padded = (count + 63) / 64 * 64;
    std::unique_ptr<uint8_t[]> bytes;
    if (!looks_up) bytes.reset(new (std::nothrow) uint8_t[size_t(2 * padded)]);
    if (bytes == nullptr) return one_by_one(codes, rows, columns, begin, end, out);
    uint8_t *from = bytes.get(), *to = from + padded;
    set.decode->bytes(codes, begin, count, same, reinterpret_cast<int8_t*>(from));
    std::fill(to + count, to + padded, uint8_t(0));
    for (int64_t at = 0; at < count; at += size)
      transpose(*set.streams, from + at, rows, columns, to + at);
    set.streams->pack4(to, padded, out + begin / 2);
  });
}

} // namespace nybble
