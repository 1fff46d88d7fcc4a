#include "lines/images.hpp"

#include <algorithm>
#include <vector>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "lines/kernels.hpp"

namespace nybble {
namespace {

constexpr int64_t kChunk = 1 << 11; // elements of a plane that stay in the first cache

} // namespace

void image_error(const RoundedImages& of, float* error, int threads) {
  const LineKernels& kernels = *active().lines;
  const int64_t plane = of.plane();
  parallel_for(threads, (plane + kChunk - 1) / kChunk, [&](int64_t task) {
    const int64_t first = task * kChunk, n = std::min(kChunk, plane - first);
    float* out = error + first;
    std::fill(out, out + n, 0.0f);
    for (int64_t i = 0; i < of.images; ++i) {
      const float* x = of.x + i * plane + first;
      const float factor = of.factors == nullptr ? 1.0f : of.factors[i];
      if (i == 0) // and not 0 + z, which would change -0
        kernels.scaled(x, n, {nullptr, factor}, {nullptr, 1.0f}, out);
      else if (of.factors == nullptr)
        kernels.add(out, x, n);
      else
        kernels.add_product(out, n, factor, x);
    }
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = first + j;
      const float scale = of.scale[of.channels_last ? at % of.channels : at / of.pixels];
      const float rounded = float(of.sums[at]) * scale;
      out[j] = out[j] - rounded;
    }
  });
}

void tap_sums(const TapPlane& of, float* sums, int threads) {
  const int64_t pixels = of.height * of.width, taps = of.taps_down * of.taps_across;
  const int64_t apart = of.channels_last ? of.channels : 1;
  // Of every piece of the channels: the columns' running sums, the first one 0, and those of a row.
  const int64_t columns = (of.height + 1) * of.width, room = columns + of.width + 1;
  const int64_t pieces = std::min<int64_t>(std::clamp(threads, 1, kMostThreads), of.channels);
  std::vector<double> memory(size_t(pieces * room), 0.0);
  parallel_for(threads, pieces, [&](int64_t piece) {
    double* running = memory.data() + piece * room;
    double* row = running + columns;
    for (int64_t o = of.channels * piece / pieces; o < of.channels * (piece + 1) / pieces; ++o) {
      const float* plane = of.plane + (of.channels_last ? o : o * pixels);
      for (int64_t y = 0; y < of.height; ++y)
        for (int64_t x = 0; x < of.width; ++x)
          running[(y + 1) * of.width + x] =
              running[y * of.width + x] + double(plane[(y * of.width + x) * apart]);
      for (int64_t i = 0; i < of.taps_down; ++i) {
        const double* low = running + of.down[i].first * of.width;
        const double* high = running + of.down[i].last * of.width;
        for (int64_t x = 0; x < of.width; ++x)
          row[x + 1] = row[x] + (high[x] - low[x]);
        for (int64_t j = 0; j < of.taps_across; ++j)
          sums[o * taps + i * of.taps_across + j] =
              float(row[of.across[j].last] - row[of.across[j].first]);
      }
    }
  });
}

} // namespace nybble
