#include <vector>

#include "core/dispatch.hpp"
#include "norm/kernels.hpp"
#include "norm/norm.hpp"
#include "norm/ranges.hpp"

namespace nybble {

void batch_norm_backward(const NormShape& s, const float* dy, const uint8_t* packed,
                         const float* stats, float* dx, float* dgamma, float* dbeta) {
  const NormKernels& kernels = *active().norm;
  const float *scale = stats + kScale * s.channels, *step = stats + kStep * s.channels;
  const float *offset = stats + kOffset * s.channels, *first = stats + kFirst * s.channels;
  const std::vector<double> total =
      ChannelSums(s.pixels, s.channels)
          .add(s.threads, [&](int64_t from, int64_t to, double* sum, double* product, float* work) {
            kernels.grad_sums(dy, packed, first, from, to, s.channels, sum, product, work);
          });
  // With x^ = code * step + offset: dx = a g + b code + d.
  Periodic values(s.channels, 4);
  const double n = double(s.pixels);
  for (int64_t c = 0; c < s.channels; ++c) {
    const double sum = total[size_t(c)], product = total[size_t(s.channels + c)];
    const double gamma = double(step[c]) * product + double(offset[c]) * sum;
    dgamma[c] = float(gamma);
    dbeta[c] = float(sum);
    values.at(0, c) = scale[c];
    values.at(1, c) = float(-double(scale[c]) * (gamma / n) * double(step[c]));
    values.at(2, c) = float(-double(scale[c]) * (sum / n + double(offset[c]) * (gamma / n)));
    values.at(3, c) = first[c];
  }
  if (dx == nullptr) return;
  values.repeat();
  const int64_t count = s.pixels * s.channels;
  for_blocks(count, s.threads, [&](int64_t at, int64_t blocks) {
    kernels.grad_input(dy + 64 * at, packed + 32 * at, blocks, values.data(), values.period(),
                       values.phase(at), dx + 64 * at);
  });
  Tail tail(dy, count);
  if (tail.count == 0) return;
  kernels.grad_input(tail.in, packed + tail.at / 2, 1, values.data(), values.period(),
                     values.phase(tail.at / 64), tail.out);
  tail.store(dx);
}

void relu_backward(const float* dy, const uint8_t* bits, int64_t count, float* dx, int threads) {
  const NormKernels& kernels = *active().norm;
  for_blocks(count, threads, [&](int64_t at, int64_t blocks) {
    kernels.relu_grad(dy + 64 * at, bits + 8 * at, blocks, dx + 64 * at);
  });
  Tail tail(dy, count);
  if (tail.count == 0) return;
  uint8_t last[8] = {};
  std::memcpy(last, bits + tail.at / 8, size_t(tail.count + 7) / 8);
  kernels.relu_grad(tail.in, last, 1, tail.out);
  tail.store(dx);
}

} // namespace nybble
