#include "norm/rows.hpp"

#include <vector>

#include "core/dispatch.hpp"
#include "norm/kernels.hpp"
#include "norm/ranges.hpp"

namespace nybble {
namespace {

int64_t rows_an_item(int64_t width) { return width < 65536 ? 65536 / width : 1; }

} // namespace

void layer_norm_forward(const float* x, int64_t rows, int64_t width, const float* weight,
                        const float* bias, float eps, float* y, uint8_t* packed, float* stats,
                        int threads) {
  const RowKernels& kernels = *active().norm->rows;
  const int64_t step = rows_an_item(width);
  parallel_for(threads, (rows + step - 1) / step, [&](int64_t i) {
    const int64_t from = i * step, count = rows - from < step ? rows - from : step;
    kernels.forward(x + from * width, count, width, weight, bias, eps, y + from * width,
                    packed + from * width / 2, stats + 2 * from);
  });
}

void layer_norm_backward(const float* dy, const uint8_t* packed, const float* stats, int64_t rows,
                         int64_t width, const float* weight, float* dx, float* dweight,
                         float* dbias, int threads) {
  const RowKernels& kernels = *active().norm->rows;
  const std::vector<double> total =
      ChannelSums(rows, width, 3)
          .add(threads, [&](int64_t from, int64_t to, double* sum, double* product, float* work) {
            kernels.backward(dy + from * width, packed + from * width / 2, stats + 2 * from,
                             to - from, width, weight, dx ? dx + from * width : nullptr, sum,
                             product, work);
          });
  for (int64_t i = 0; i < width; ++i) {
    dbias[i] = float(total[size_t(i)]);
    dweight[i] = float(total[size_t(width + i)]);
  }
}

void slopes_forward(const float* slopes, int64_t count, uint8_t* packed, int threads) {
  const RowKernels& kernels = *active().norm->rows;
  for_blocks(count, threads, [&](int64_t at, int64_t blocks) {
    kernels.pack_slopes(slopes + 64 * at, blocks, packed + 32 * at);
  });
  Tail tail(slopes, count);
  if (tail.count == 0) return;
  uint8_t* codes = packed + tail.at / 2;
  kernels.pack_slopes(tail.in, 1, codes);
  clear_codes(codes, tail.count);
}

void slopes_backward(const float* dy, const uint8_t* packed, int64_t count, float* dx,
                     int threads) {
  const RowKernels& kernels = *active().norm->rows;
  for_blocks(count, threads, [&](int64_t at, int64_t blocks) {
    kernels.slope_grad(dy + 64 * at, packed + 32 * at, blocks, dx + 64 * at);
  });
  Tail tail(dy, count);
  if (tail.count == 0) return;
  kernels.slope_grad(tail.in, packed + tail.at / 2, 1, tail.out);
  tail.store(dx);
}

} // namespace nybble
