// The gradient towards the weight: a contraction over pixels, a few hundred at a time.
//
//     dw[o, tap, c] = sum over pixels p = (n, oh, ow) of g[p, o] * x[p + tap, c]
//
// Panels of g (kRows channels) are packed once a piece of pixels; for each tap and kColumns input
// channels the matching panel of x is gathered from the padded window and meets them all. Sums stay
// in int32 tiles, which are emptied into int64 before they could overflow.
#include <algorithm>
#include <cstring>
#include <vector>

#include "conv/buffer.hpp"
#include "conv/depthwise.hpp"
#include "conv/image.hpp"
#include "conv/mode.hpp"
#include "conv/pack.hpp"
#include "conv/tile.hpp"
#include "conv/workers.hpp"
#include "core/dispatch.hpp"

namespace nybble {
namespace {

constexpr int64_t kChunkBytes = 1 << 20;    // decoded input at a time
constexpr int64_t kPanelsBytes = 256 << 10; // packed gradient of a piece
constexpr int64_t kLeastPixels = 64, kMostPixels = 512;

class GradWeight {
public:
  GradWeight(const ConvShape& s, const ConvOperand& g, const ConvOperand& x, ConvRun run)
      : s_(s), mode_(choose_mode(x, g)), x_(x, mode_.size, mode_.low), g_(g, mode_.size, 0),
        threads_(std::max(1, run.threads)), gemm_(*active().gemm), conv_(*active().conv) {
    window_ = input_window(s);
    x_pixel_ = s.channels * mode_.size, x_line_ = window_.columns * x_pixel_;
    x_step_h_ = s.stride_h / window_.step_y * x_line_,
    x_step_w_ = s.stride_w / window_.step_x * x_pixel_;
    x_image_ = round_up(window_.elements() * mode_.size, 64);
    g_pixel_ = s.out_channels * mode_.size;
    chunk_ = std::clamp<int64_t>(kChunkBytes / std::max<int64_t>(1, x_image_), 1,
                                 std::max<int64_t>(1, s.images));
    o_panels_ = blocks_of(s.group_outputs, kRows);
    c_panels_ = blocks_of(s.group_inputs, kColumns);
    const int64_t q = mode_.group();
    const int64_t safe = groups_within(mode_, run.limit) * q;
    const int64_t fit =
        kPanelsBytes / std::max<int64_t>(1, s.groups * o_panels_ * kRows * mode_.size);
    piece_ = std::clamp(fit, kLeastPixels, kMostPixels);
    piece_ = std::max(q, std::min({piece_, safe, round_up(chunk_ * s.pixels(), q)}) / q * q);
    safe_ = safe;
    panel_bytes_ = round_up(piece_ * kRows * mode_.size, 64);
    tiles_ = s.groups * s.taps() * c_panels_ * o_panels_;
    sums_ = Buffer(tiles_ * kTile * 4);
    std::fill(sums(), sums() + tiles_ * kTile, 0);
    if (s.images * s.pixels() > safe_) wide_.assign(size_t(tiles_ * kTile), 0);
    if (mode_.low != 0) totals_.assign(size_t(s.out_channels), 0);
  }

  void run() {
    const int64_t per_image = s_.pixels();
    decoded_x_ = Buffer(chunk_ * x_image_);
    decoded_g_ = Buffer(chunk_ * per_image * g_pixel_);
    panels_ = Buffer(s_.groups * o_panels_ * panel_bytes_);
    nothing_ = Buffer(g_pixel_);
    std::memset(nothing_.data(), 0, size_t(g_pixel_));
    for (int t = 0; t < threads_; ++t)
      scratch_.emplace_back(piece_ * kColumns * mode_.size);
    x_lines_.resize(size_t(piece_)), g_lines_.resize(size_t(piece_));
    for (int64_t start = 0; start < s_.images; start += chunk_) {
      const int64_t n = std::min(chunk_, s_.images - start);
      parallel_for(threads_, n, [&](int64_t i) {
        decode_window(x_, window_, start + i, decoded_x_.data() + i * x_image_);
        g_.flat((start + i) * per_image * s_.out_channels, per_image * s_.out_channels,
                decoded_g_.data() + i * per_image * g_pixel_);
      });
      if (!totals_.empty()) add_totals(n * per_image);
      for (int64_t first = 0; first < n * per_image; first += piece_)
        multiply(first, std::min(piece_, n * per_image - first));
    }
    if (!wide_.empty()) spill();
  }

  void finish(const ConvScales& scales, float* out) {
    std::vector<float> column(size_t(c_panels_ * kColumns), 0.0f);
    const int64_t line = s_.taps() * s_.group_inputs;
    const int64_t items = s_.groups * s_.taps() * c_panels_;
    for (int64_t c = 0; c < s_.group_inputs; ++c)
      column[size_t(c)] = scales.column_at(c);
    parallel_for(threads_, items, [&](int64_t item) {
      const int64_t c = item % c_panels_ * kColumns, tap = item / c_panels_ % s_.taps();
      const int64_t group = item / c_panels_ / s_.taps();
      const int columns = int(std::min<int64_t>(kColumns, s_.group_inputs - c));
      for (int64_t panel = 0; panel < o_panels_; ++panel) {
        const int64_t o = panel * kRows;
        const int rows = int(std::min<int64_t>(kRows, s_.group_outputs - o));
        float row[kRows] = {};
        float* to[kRows] = {};
        for (int r = 0; r < rows; ++r) {
          const int64_t channel = group * s_.group_outputs + o + r;
          row[r] = scales.row_at(channel);
          to[r] = out + channel * line + tap * s_.group_inputs + c;
        }
        const int64_t at = (item * o_panels_ + panel) * kTile;
        const int64_t* totals =
            totals_.empty() ? nullptr : totals_.data() + group * s_.group_outputs + o;
        if (wide_.empty()) {
          int32_t* acc = sums() + at;
          for (int i = 0; totals != nullptr && i < rows * kColumns; ++i)
            acc[i] += int32_t(mode_.low * totals[i / kColumns]);
          finish_tile(conv_, acc, rows, columns, row, column.data() + c, nullptr, to);
        } else {
          int64_t* acc = wide_.data() + at;
          for (int i = 0; totals != nullptr && i < rows * kColumns; ++i)
            acc[i] += mode_.low * totals[i / kColumns];
          finish_tile(acc, rows, columns, row, column.data() + c, nullptr, to);
        }
      }
    });
  }

private:
  int32_t* sums() const { return sums_.as<int32_t>(); }

  // Pixels [first, first + count) of the decoded images.
  void multiply(int64_t first, int64_t count) {
    if (!wide_.empty() && summed_ + round_up(count, mode_.group()) > safe_) spill();
    summed_ += round_up(count, mode_.group());
    const int64_t groups = blocks_of(count, mode_.group());
    int64_t image = first / s_.pixels(), y = first % s_.pixels() / s_.out_w, x = first % s_.out_w;
    for (int64_t i = 0; i < groups * mode_.group(); ++i) {
      g_lines_[size_t(i)] =
          i < count ? decoded_g_.data() + (first + i) * g_pixel_ : nothing_.data();
      if (i >= count) {
        x_lines_[size_t(i)] = x_lines_[0];
        continue;
      }
      x_lines_[size_t(i)] = decoded_x_.data() + image * x_image_ + y * x_step_h_ + x * x_step_w_;
      if (++x == s_.out_w) {
        x = 0;
        if (++y == s_.out_h) y = 0, ++image;
      }
    }
    parallel_for(threads_, s_.groups * o_panels_, [&](int64_t item) {
      const int64_t channel = item / o_panels_ * s_.group_outputs + item % o_panels_ * kRows;
      conv_.cross_rows[mode_.size - 1](g_lines_.data(), channel * mode_.size, groups,
                                       panels_.data() + item * panel_bytes_);
    });
    for_workers(threads_, s_.groups * s_.taps() * c_panels_, [&](int64_t worker, int64_t item) {
      const int64_t c = item % c_panels_ * kColumns, tap = item / c_panels_ % s_.taps();
      const int64_t group = item / c_panels_ / s_.taps();
      const int64_t offset = tap / s_.kernel_w * s_.dilation_h * x_line_ +
                             tap % s_.kernel_w * s_.dilation_w * x_pixel_ +
                             (group * s_.group_inputs + c) * mode_.size;
      uint8_t* b = scratch_[size_t(worker)].data();
      conv_.cross_columns[mode_.size - 1](x_lines_.data(), offset, groups, b);
      const uint8_t* a = panels_.data() + group * o_panels_ * panel_bytes_;
      int32_t* acc = sums() + item * o_panels_ * kTile;
      for (int64_t o = 0; o < o_panels_; ++o)
        multiply_tile(gemm_, mode_, false, groups, a + o * panel_bytes_, b, acc + o * kTile);
    });
  }

  void spill() {
    parallel_for(threads_, tiles_, [&](int64_t tile) {
      for (int64_t i = tile * kTile; i < (tile + 1) * kTile; ++i)
        wide_[size_t(i)] += sums()[i], sums()[i] = 0;
    });
    summed_ = 0;
  }

  // Sums of the gradient over pixels: what an offset of x adds, whatever the tap.
  void add_totals(int64_t pixels) {
    const auto* g = reinterpret_cast<const int8_t*>(decoded_g_.data());
    for (int64_t p = 0; p < pixels; ++p, g += s_.out_channels)
      for (int64_t o = 0; o < s_.out_channels; ++o)
        totals_[size_t(o)] += g[o];
  }

  const ConvShape& s_;
  Mode mode_; // first: x, second: g
  ElementDecoder x_, g_;
  int threads_;
  const GemmKernels& gemm_;
  const ConvKernels& conv_;
  Window window_;
  int64_t x_pixel_, x_line_, x_step_h_, x_step_w_, x_image_, g_pixel_; // bytes
  int64_t chunk_;                                                      // images decoded at a time
  int64_t piece_, safe_; // pixels of a piece; that an int32 sum may hold
  int64_t o_panels_, c_panels_, panel_bytes_, tiles_;
  int64_t summed_ = 0; // pixels in the int32 sums
  Buffer sums_, decoded_x_, decoded_g_, panels_, nothing_;
  std::vector<int64_t> wide_, totals_;
  std::vector<Buffer> scratch_;
  std::vector<const uint8_t*> x_lines_, g_lines_;
};

} // namespace

void conv_grad_weight(const ConvShape& s, const ConvOperand& g, const ConvOperand& x,
                      const ConvScales& scales, ConvRun run, float* out) {
  if (s.out_channels * s.taps() * s.group_inputs == 0) return;
  if (s.depthwise()) return depthwise_grad_weight(s, g, x, scales, run, out);
  GradWeight product(s, g, x, run);
  if (s.images * s.pixels() > 0) product.run();
  product.finish(scales, out);
}

} // namespace nybble
