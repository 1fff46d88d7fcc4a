// The weight's gradient of a depthwise convolution: dot products over pixels, channel by channel.
//
// Pairs of pixels of kColumns channels are interleaved once for the gradient and once a tap for the
// input; then one multiply-add takes two pixels of eight channels.
#include <algorithm>
#include <vector>

#include "conv/buffer.hpp"
#include "conv/depthwise.hpp"
#include "conv/image.hpp"
#include "conv/pack.hpp"
#include "conv/workers.hpp"
#include "core/dispatch.hpp"

namespace nybble {
namespace {

constexpr int64_t kPixels = 256; // of a piece: both panels stay in the first cache

} // namespace

void depthwise_grad_weight(const ConvShape& s, const ConvOperand& g, const ConvOperand& x,
                           const ConvScales& scales, ConvRun run, float* out) {
  const ConvKernels& kernels = *active().conv;
  const Mode mode = words_mode(g, x);
  const int64_t safe = groups_within(mode, run.limit) * 2;
  const int threads = std::max(1, run.threads);
  const int64_t taps = s.taps(), blocks = blocks_of(s.out_channels, kColumns);
  const Window window = input_window(s);
  const int64_t pixel = s.out_channels, line = window.columns * pixel;
  const int64_t step_h = s.stride_h / window.step_y * line;
  const int64_t step_w = s.stride_w / window.step_x * pixel;
  const int64_t x_words = round_up(window.elements() * s.group_outputs, 32);
  const int64_t g_words = round_up(s.pixels() * pixel, 32);
  const int64_t piece = std::max<int64_t>(2, std::min(kPixels, safe) / 2 * 2);

  // A worker decodes an image and adds its sums to its own; integers may be added in any order.
  struct Worker {
    Buffer x, g, a, b;
    std::vector<const uint8_t*> x_lines, g_lines;
    std::vector<int32_t> sums;
    std::vector<int64_t> wide;
    int64_t summed = 0;
    void spill() {
      for (size_t i = 0; i < sums.size(); ++i)
        wide[i] += sums[i], sums[i] = 0;
      summed = 0;
    }
  };
  const int64_t count = blocks * taps * kColumns;
  const int64_t used = std::max<int64_t>(1, std::min<int64_t>(threads, s.images));
  std::vector<Worker> workers(static_cast<size_t>(used));
  for (Worker& w : workers) {
    w.x = Buffer(2 * x_words), w.g = Buffer(2 * g_words);
    w.a = Buffer(piece * kColumns * 2), w.b = Buffer(piece * kColumns * 2);
    w.x_lines.resize(size_t(piece)), w.g_lines.resize(size_t(piece));
    w.sums.assign(size_t(count), 0), w.wide.assign(size_t(count), 0);
  }
  const Buffer nothing(2 * pixel);
  std::fill(nothing.data(), nothing.data() + 2 * pixel, uint8_t(0));
  const ElementDecoder decode_x(x, 2, 0), decode_g(g, 2, 0);

  for_workers(int(used), s.images, [&](int64_t worker, int64_t image) {
    Worker& w = workers[size_t(worker)];
    decode_window(decode_x, window, image, w.x.data());
    repeat(w.x.as<int16_t>(), window.elements(), s.group_outputs);
    decode_g.flat(image * s.pixels() * pixel, s.pixels() * pixel, w.g.data());
    for (int64_t first = 0; first < s.pixels(); first += piece) {
      const int64_t n = std::min(piece, s.pixels() - first), groups = blocks_of(n, 2);
      if (w.summed + 2 * groups > safe) w.spill();
      w.summed += 2 * groups;
      for (int64_t i = 0; i < 2 * groups; ++i) {
        const int64_t p = first + std::min(i, n - 1);
        w.g_lines[size_t(i)] = i < n ? w.g.data() + 2 * p * pixel : nothing.data();
        w.x_lines[size_t(i)] = w.x.data() + 2 * (p / s.out_w * step_h + p % s.out_w * step_w);
      }
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t at = block * kColumns * 2; // bytes
        kernels.cross_columns[1](w.g_lines.data(), at, groups, w.a.data());
        for (int64_t tap = 0; tap < taps; ++tap) {
          const int64_t offset =
              tap / s.kernel_w * s.dilation_h * line + tap % s.kernel_w * s.dilation_w * pixel;
          kernels.cross_columns[1](w.x_lines.data(), 2 * offset + at, groups, w.b.data());
          kernels.dot(w.a.as<int16_t>(), w.b.as<int16_t>(), groups,
                      w.sums.data() + (block * taps + tap) * kColumns);
        }
      }
    }
  });

  for (Worker& w : workers)
    w.spill();
  for (int64_t o = 0; o < s.out_channels; ++o)
    for (int64_t tap = 0; tap < taps; ++tap) {
      const size_t at = size_t((o / kColumns * taps + tap) * kColumns + o % kColumns);
      int64_t sum = 0;
      for (const Worker& w : workers)
        sum += w.wide[at];
      out[o * taps + tap] = float(sum) * (scales.row_at(o) * scales.column_at(0));
    }
}

} // namespace nybble
