// Random bits in the order of memory, and the mark by which an input is known again.
#include <algorithm>
#include <atomic>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "quantize/drivers.hpp"

namespace nybble {
namespace {

constexpr int64_t kChunk = 1 << 15; // elements of a task

} // namespace

void draw(const RandomStream& stream, const Order& order, int64_t begin, int64_t end,
          int32_t* out) {
  const StreamKernels& kernels = *active().streams;
  const int64_t c = order.channels, p = order.pixels;
  if (c == 1) return kernels.random24(stream, begin, end - begin, out);
  // Pixel after pixel in memory: of every channel, a run of the pixels that the range touches.
  for (int64_t pixel = begin / c; pixel * c < end;) {
    const int64_t image = pixel / p, first = pixel % p, start = image * c * p + first;
    int64_t last = std::min((image + 1) * p, end / c);
    const bool whole = pixel * c >= begin && pixel < last;
    if (whole) {
      kernels.random24_across(stream, start, p, c, last - pixel, out + (pixel * c - begin));
    } else { // a part of a pixel
      last = pixel + 1;
      for (int64_t channel = 0; channel < c; ++channel) {
        const int64_t at = pixel * c + channel;
        if (at >= begin && at < end)
          kernels.random24(stream, start + channel * p, 1, out + (at - begin));
      }
    }
    pixel = last;
  }
}

void random24(const RandomStream& stream, int64_t n, int32_t* out, int threads) {
  const auto kernel = active().streams->random24;
  parallel_for(threads, (n + kChunk - 1) / kChunk, [&](int64_t i) {
    kernel(stream, i * kChunk, std::min(kChunk, n - i * kChunk), out + i * kChunk);
  });
}

uint64_t fingerprint(const float* x, int64_t n, int threads) {
  const auto kernel = active().streams->fingerprint;
  const auto* bits = reinterpret_cast<const uint32_t*>(x);
  std::atomic<uint64_t> sum{0};
  parallel_for(threads, (n + kChunk - 1) / kChunk, [&](int64_t i) {
    sum += kernel(bits + i * kChunk, i * kChunk, std::min(kChunk, n - i * kChunk));
  });
  return sum;
}

} // namespace nybble
