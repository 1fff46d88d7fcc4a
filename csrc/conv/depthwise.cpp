#include "conv/depthwise.hpp"

#include <algorithm>
#include <vector>

#include "conv/buffer.hpp"
#include "conv/image.hpp"
#include "conv/pack.hpp"
#include "conv/phases.hpp"
#include "conv/workers.hpp"
#include "core/dispatch.hpp"

namespace nybble {
namespace {

constexpr int64_t kChunkBytes = 512 << 10; // decoded images at a time
constexpr int64_t kLineSums = 4096;        // int32 sums of a stretch of a line

// The products of one grid of pixels with its taps.
struct Grid {
  int64_t height, width, step_h, step_w; // step: words between pixels of the window
  std::vector<int64_t> offsets;          // per tap, words; an even number
  std::vector<int16_t> weights;          // [channel block][pair][kUnpackOrder][2]
  int64_t out_offset, out_h, out_w;      // floats
  int64_t pairs() const { return int64_t(offsets.size()) / 2; }
};

int64_t channel_blocks(const ConvShape& s) { return blocks_of(s.out_channels, kColumns); }

// weights: decoded words [O][taps]; `taps` are those of the grid, in the order of its offsets.
void set_weights(Grid& grid, const ConvShape& s, const int16_t* weights,
                 const std::vector<int64_t>& taps) {
  if (grid.offsets.size() % 2 == 1) grid.offsets.push_back(grid.offsets.back());
  const int64_t pairs = grid.pairs();
  grid.weights.assign(size_t(channel_blocks(s) * pairs * kColumns * 2), 0);
  int16_t* to = grid.weights.data();
  for (int64_t block = 0; block < channel_blocks(s); ++block)
    for (int64_t pair = 0; pair < pairs; ++pair)
      for (const int c : kUnpackOrder)
        for (int64_t i = 2 * pair; i < 2 * pair + 2; ++i, ++to) {
          const int64_t o = block * kColumns + c;
          if (o < s.out_channels && i < int64_t(taps.size()))
            *to = weights[o * s.taps() + taps[size_t(i)]];
        }
}

struct Finish {
  std::vector<float> scale; // per result channel
  const float* bias;
  int64_t sum; // neighbouring channels that one result channel adds up
};

void weigh_images(const ConvShape& s, const std::vector<Grid>& grids, const ElementDecoder& decoder,
                  const Window& window, int64_t times, const Finish& finish, ConvRun run,
                  float* out, int64_t out_image) {
  const ConvKernels& kernels = *active().conv;
  const int threads = std::max(1, run.threads);
  const int64_t words = window.elements() * times, image = round_up(words, 32);
  const int64_t chunk =
      std::clamp<int64_t>(kChunkBytes * threads / std::max<int64_t>(1, 2 * image), 1, s.images);
  const int64_t wide = channel_blocks(s) * kColumns; // sums of a pixel
  const int64_t stretch = std::max<int64_t>(1, kLineSums / wide);
  const int64_t result = s.out_channels / finish.sum;
  const Buffer decoded(2 * chunk * image);
  std::vector<Buffer> sums;
  for (int t = 0; t < threads; ++t)
    sums.emplace_back(4 * stretch * wide);
  int64_t lines = 0;
  for (const Grid& grid : grids)
    lines = std::max(lines, grid.height);
  const int64_t number = int64_t(grids.size());
  for (int64_t first = 0; first < s.images; first += chunk) {
    const int64_t n = std::min(chunk, s.images - first);
    parallel_for(threads, n, [&](int64_t i) {
      auto* to = decoded.as<int16_t>() + i * image;
      decode_window(decoder, window, first + i, reinterpret_cast<uint8_t*>(to));
      repeat(to, window.elements(), times);
    });
    // Grids run fastest: those that write the same lines of the result meet in the cache.
    for_workers(threads, n * lines * number, [&](int64_t worker, int64_t item) {
      const Grid& grid = grids[size_t(item % number)];
      const int64_t i = item / number / lines, y = item / number % lines;
      if (y >= grid.height) return;
      const int16_t* line = decoded.as<int16_t>() + i * image + y * grid.step_h;
      float* to = out + (first + i) * out_image + grid.out_offset + y * grid.out_h;
      int32_t* acc = sums[size_t(worker)].as<int32_t>();
      if (finish.sum == 1 && s.out_channels == wide) {
        for (int64_t c = 0; c < wide; c += kColumns)
          kernels.weigh_finish(line + c, grid.width, grid.step_w, grid.offsets.data(), grid.pairs(),
                               grid.weights.data() + c * grid.pairs() * 2, finish.scale.data() + c,
                               finish.bias == nullptr ? nullptr : finish.bias + c, to + c,
                               grid.out_w);
        return;
      }
      for (int64_t x = 0; x < grid.width; x += stretch) {
        const int64_t pixels = std::min(stretch, grid.width - x);
        for (int64_t block = 0; block * kColumns < wide; ++block)
          kernels.weigh(line + x * grid.step_w + block * kColumns, pixels, grid.step_w,
                        grid.offsets.data(), grid.pairs(),
                        grid.weights.data() + block * grid.pairs() * kColumns * 2,
                        acc + block * kColumns, wide);
        for (int64_t p = 0; p < pixels; ++p) {
          int32_t* mine = acc + p * wide;
          for (int64_t c = 0; finish.sum > 1 && c < result; ++c) {
            int32_t sum = 0;
            for (int64_t j = 0; j < finish.sum; ++j)
              sum += mine[c * finish.sum + j];
            mine[c] = sum;
          }
          kernels.finish_line(mine, result, finish.scale.data(), finish.bias,
                              to + (x + p) * grid.out_w);
        }
      }
    });
  }
}

Finish finish_of(const ConvScales& scales, int64_t channels, int64_t sum) {
  Finish f{std::vector<float>(size_t(channels)), scales.bias, sum};
  for (int64_t c = 0; c < channels; ++c)
    f.scale[size_t(c)] = scales.row_at(0) * scales.column_at(c);
  return f;
}

} // namespace

bool depthwise(const ConvShape& s, const ConvOperand& a, const ConvOperand& b, ConvRun run) {
  const int64_t product = std::max(-a.low, a.high) * std::max(-b.low, b.high);
  return s.depthwise() && 2 * product <= INT32_MAX &&
         (product == 0 || (s.taps() + 1) * s.group_outputs <= run.limit / product);
}

void depthwise_output(const ConvShape& s, const ConvOperand& x, const ConvOperand& w,
                      const ConvScales& scales, ConvRun run, float* out) {
  const Window window = input_window(s);
  const int64_t pixel = s.out_channels, line = window.columns * pixel;
  const Buffer weights(2 * s.out_channels * s.taps());
  ElementDecoder(w, 2, 0).flat(0, s.out_channels * s.taps(), weights.data());
  Grid grid{s.out_h,
            s.out_w,
            s.stride_h / window.step_y * line,
            s.stride_w / window.step_x * pixel,
            {},
            {},
            0,
            s.out_w * pixel,
            pixel};
  std::vector<int64_t> taps;
  for (int64_t i = 0; i < s.taps(); ++i) {
    taps.push_back(i);
    grid.offsets.push_back(i / s.kernel_w * s.dilation_h * line +
                           i % s.kernel_w * s.dilation_w * pixel);
  }
  std::vector<Grid> grids{std::move(grid)};
  set_weights(grids[0], s, weights.as<int16_t>(), taps);
  weigh_images(s, grids, ElementDecoder(x, 2, 0), window, s.group_outputs,
               finish_of(scales, s.out_channels, 1), run, out, s.pixels() * pixel);
}

void depthwise_grad_input(const ConvShape& s, const ConvOperand& g, const ConvOperand& w,
                          const ConvScales& scales, ConvRun run, float* out) {
  const auto rows = phases_of(s.height, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h);
  const auto columns = phases_of(s.width, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w);
  Window window{s.out_h, s.out_w, s.out_channels, 0, 0, 0, 0, 1, 1};
  reach(rows, window.y0, window.rows);
  reach(columns, window.x0, window.columns);
  const int64_t pixel = s.out_channels, line = window.columns * pixel;
  const Buffer weights(2 * s.out_channels * s.taps());
  ElementDecoder(w, 2, 0).flat(0, s.out_channels * s.taps(), weights.data());
  std::vector<Grid> grids;
  for (const Phase& row : rows)
    for (const Phase& column : columns) {
      Grid grid{row.count,
                column.count,
                line,
                pixel,
                {},
                {},
                (row.start * s.width + column.start) * s.channels,
                s.stride_h * s.width * s.channels,
                s.stride_w * s.channels};
      std::vector<int64_t> taps;
      for (const Phase::Tap& i : row.taps)
        for (const Phase::Tap& j : column.taps) {
          taps.push_back(i.index * s.kernel_w + j.index);
          grid.offsets.push_back((i.offset - window.y0) * line + (j.offset - window.x0) * pixel);
        }
      set_weights(grid, s, weights.as<int16_t>(), taps);
      grids.push_back(std::move(grid));
    }
  weigh_images(s, grids, ElementDecoder(g, 2, 0), window, 1,
               finish_of(scales, s.channels, s.group_outputs), run, out,
               s.height * s.width * s.channels);
}

} // namespace nybble
