// The output Gemm. Rows: output pixels over the padded input. Runs: a line of taps where the kernel
// is dense and the groups are one, else a tap's channels.
#include <cstring>

#include "conv/depthwise.hpp"
#include "conv/gathered.hpp"
#include "conv/pack.hpp"
#include "core/dispatch.hpp"

namespace nybble {
namespace {

struct Runs {
  int64_t count_h, count_w; // runs of a kernel
  int64_t elements;         // of a run
  int64_t groups;           // of a run, padded
};

Runs runs_of(const ConvShape& s, const Mode& mode) {
  const bool lines = s.groups == 1 && (s.dilation_w == 1 || s.kernel_w == 1);
  Runs r;
  r.count_h = s.kernel_h;
  r.count_w = lines ? 1 : s.kernel_w;
  r.elements = s.group_inputs * (lines ? s.kernel_w : 1);
  r.groups = blocks_of(r.elements, mode.group());
  return r;
}

// Columns first .. first + kColumns of a group: each channel's weights, every run padded.
void pack_columns(Gathered& p, const Runs& runs, const Mode& mode, const uint8_t* weights) {
  const int64_t count = runs.count_h * runs.count_w, from = runs.elements * mode.size;
  const int64_t to = runs.groups * 4, line = p.groups * 4;
  const bool whole = from == to;
  const Buffer padded(whole ? 0 : kColumns * line), nothing(line);
  std::memset(nothing.data(), 0, size_t(line));
  if (!whole) std::memset(padded.data(), 0, size_t(kColumns * line));
  for (int64_t panel = 0; panel < p.column_panels(); ++panel) {
    const uint8_t* rows[kColumns];
    for (int64_t c = 0; c < kColumns; ++c) {
      const int64_t column = panel * kColumns + c;
      const uint8_t* source = weights + column * count * from;
      if (column >= p.columns) {
        rows[c] = nothing.data();
      } else if (whole) {
        rows[c] = source;
      } else {
        rows[c] = padded.data() + c * line;
        for (int64_t i = 0; i < count; ++i)
          std::memcpy(padded.data() + c * line + i * to, source + i * from, size_t(from));
      }
    }
    active().conv->gather_columns(rows, p.groups, p.panels.data() + panel * p.panel_bytes());
  }
}

} // namespace

void conv_output(const ConvShape& s, const ConvOperand& x, const ConvOperand& w,
                 const ConvScales& scales, ConvRun run, float* out) {
  if (s.pixels() == 0 || s.images == 0 || s.out_channels == 0) return;
  if (scales.rows == 1 && depthwise(s, x, w, run))
    return depthwise_output(s, x, w, scales, run, out);
  const Mode mode = choose_mode(x, w);
  const Window window = input_window(s);
  const int64_t pixel = s.channels * mode.size, line = window.columns * pixel;

  const int64_t depth = s.taps() * s.group_inputs;
  const Buffer weights(s.out_channels * depth * mode.size);
  ElementDecoder(w, mode.size, 0).flat(0, s.out_channels * depth, weights.data());
  const Runs runs = runs_of(s, mode);

  std::vector<Gathered> products;
  for (int64_t group = 0; group < s.groups; ++group) {
    Gathered p;
    p.grid_h = s.out_h, p.grid_w = s.out_w;
    p.step_h = s.stride_h / window.step_y * line, p.step_w = s.stride_w / window.step_x * pixel;
    for (int64_t i = 0; i < runs.count_h; ++i)
      for (int64_t j = 0; j < runs.count_w; ++j) {
        p.runs.push_back({i * s.dilation_h * line + j * s.dilation_w * pixel +
                              group * s.group_inputs * mode.size,
                          runs.groups});
        p.groups += runs.groups;
      }
    const int64_t first = group * s.group_outputs;
    const uint8_t* mine = weights.data() + first * depth * mode.size;
    p.set_columns(s.group_outputs, scales, first);
    p.panels = Buffer(p.column_panels() * p.panel_bytes());
    pack_columns(p, runs, mode, mine);
    if (mode.low != 0)
      for (int64_t o = 0; o < s.group_outputs; ++o) {
        int64_t sum = 0;
        for (int64_t k = 0; k < depth; ++k)
          sum += int8_t(mine[o * depth + k]);
        p.correction[size_t(o)] = mode.low * sum;
      }
    p.out_offset = first, p.out_h = s.out_w * s.out_channels, p.out_w = s.out_channels;
    products.push_back(std::move(p));
  }
  multiply_gathered(products, ElementDecoder(x, mode.size, mode.low), window, s.images, mode,
                    scales, run, out, s.pixels() * s.out_channels);
}

} // namespace nybble
