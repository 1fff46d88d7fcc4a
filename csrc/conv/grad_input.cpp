// The gradient towards the input, without the zeros that a stride puts between gradients.
//
//     dx[n, y, x, c] = sum over o, kh, kw with y = oh*sh - ph + kh*dh, x = ow*sw - pw + kw*dw
//                      of g[n, oh, ow, o] * w[o, kh, kw, c]
//
// Input pixels of one phase (phases.hpp) meet the same taps, so each phase is a dense product of
// stride 1 over the padded gradient; phases that no tap reaches are zero.
#include "conv/depthwise.hpp"
#include "conv/gathered.hpp"
#include "conv/pack.hpp"
#include "conv/phases.hpp"
#include "core/dispatch.hpp"

namespace nybble {
namespace {

struct Weights {
  const uint8_t* data; // decoded, OHWI
  const uint8_t* nothing;
};

// Panels [column panel][tap, o]: the channels of a group's taps, o running fastest.
void pack_phase(Gathered& p, const ConvShape& s, const Mode& mode, const Weights& weights,
                int64_t group, const std::vector<int64_t>& taps) {
  const int64_t q = mode.group(), per_tap = blocks_of(s.group_outputs, q);
  const int64_t line = s.group_inputs * mode.size, filter = s.taps() * line;
  std::vector<const uint8_t*> lines(size_t(per_tap * q), weights.nothing);
  for (int64_t panel = 0; panel < p.column_panels(); ++panel) {
    uint8_t* to = p.panels.data() + panel * p.panel_bytes();
    const int64_t first = panel * kColumns * mode.size;
    for (const int64_t tap : taps) {
      for (int64_t o = 0; o < s.group_outputs; ++o)
        lines[size_t(o)] =
            weights.data + (group * s.group_outputs + o) * filter + tap * line + first;
      active().conv->cross_columns[mode.size - 1](lines.data(), 0, per_tap, to);
      to += per_tap * kColumns * 4;
    }
  }
  if (mode.low == 0) return;
  for (const int64_t tap : taps)
    for (int64_t o = 0; o < s.group_outputs; ++o) {
      const auto* from = reinterpret_cast<const int8_t*>(
          weights.data + (group * s.group_outputs + o) * filter + tap * line);
      for (int64_t c = 0; c < s.group_inputs; ++c)
        p.correction[size_t(c)] += mode.low * from[c];
    }
}

} // namespace

void conv_grad_input(const ConvShape& s, const ConvOperand& g, const ConvOperand& w,
                     const ConvScales& scales, ConvRun run, float* out) {
  if (s.images == 0 || s.height * s.width * s.channels == 0) return;
  if (scales.rows == 1 && depthwise(s, g, w, run))
    return depthwise_grad_input(s, g, w, scales, run, out);
  const Mode mode = choose_mode(g, w);
  const auto rows = phases_of(s.height, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h);
  const auto columns = phases_of(s.width, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w);
  Window window{s.out_h, s.out_w, s.out_channels, 0, 0, 0, 0, 1, 1};
  reach(rows, window.y0, window.rows);
  reach(columns, window.x0, window.columns);
  const int64_t pixel = s.out_channels * mode.size, line = window.columns * pixel;

  const int64_t count = s.out_channels * s.taps() * s.group_inputs;
  const Buffer decoded(count * mode.size);
  ElementDecoder(w, mode.size, 0).flat(0, count, decoded.data());
  const Buffer nothing(0); // its slack is zeros
  const Weights weights{decoded.data(), nothing.data()};
  const int64_t per_tap = blocks_of(s.group_outputs, mode.group());

  std::vector<Gathered> products;
  for (const Phase& row : rows)
    for (const Phase& column : columns)
      for (int64_t group = 0; group < s.groups; ++group) {
        Gathered p;
        p.grid_h = row.count, p.grid_w = column.count;
        p.step_h = line, p.step_w = pixel;
        std::vector<int64_t> taps;
        for (const Phase::Tap& i : row.taps)
          for (const Phase::Tap& j : column.taps) {
            taps.push_back(i.index * s.kernel_w + j.index);
            p.runs.push_back({(i.offset - window.y0) * line + (j.offset - window.x0) * pixel +
                                  group * s.group_outputs * mode.size,
                              per_tap});
            p.groups += per_tap;
          }
        const int64_t first = group * s.group_inputs;
        p.set_columns(s.group_inputs, scales, first);
        p.panels = Buffer(p.column_panels() * p.panel_bytes());
        pack_phase(p, s, mode, weights, group, taps);
        p.out_offset = (row.start * s.width + column.start) * s.channels + first;
        p.out_h = s.stride_h * s.width * s.channels, p.out_w = s.stride_w * s.channels;
        products.push_back(std::move(p));
      }
  multiply_gathered(products, ElementDecoder(g, mode.size, mode.low), window, s.images, mode,
                    scales, run, out, s.height * s.width * s.channels);
}

} // namespace nybble
