// The three Gemms of convolutions: direct, and by Winograd where a case says so.
#include "check.hpp"
#include "conv/shape.hpp"
#include "winograd/winograd.hpp"

namespace nybble_tests {
namespace {

nybble::ConvShape shape_of(const Case& one) {
  const int64_t* n = one.data<int64_t>("sizes");
  nybble::ConvShape s{n[0], n[1],  n[2],  n[3],  n[4],  n[5], n[6], n[7], n[8],
                      n[9], n[10], n[11], n[12], n[13], 0,    0,    0,    0};
  const auto out = [](int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
    return (size + 2 * pad - dilation * (kernel - 1) - 1) / stride + 1;
  };
  s.out_h = out(s.height, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h);
  s.out_w = out(s.width, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w);
  s.group_inputs = s.channels / s.groups, s.group_outputs = s.out_channels / s.groups;
  return s;
}

nybble::ConvOperand direct(const Case& one, const std::string& name) {
  return {one.data<uint8_t>("packed_" + name), int(one.integer("bits_" + name)),
          one.data<int16_t>("table_" + name), one.integer("low_" + name),
          one.integer("high_" + name)};
}

nybble::WinogradOperand winograd(const Case& one, const std::string& name) {
  return {one.data<uint8_t>("packed_" + name),
          one.data<int16_t>("table_" + name),
          {one.integer("low_" + name), one.integer("high_" + name)}};
}

void run_direct(const Case& one, const std::string& gemm, const nybble::ConvShape& s, int threads) {
  nybble::ConvScales scales{one.data<float>("scale_a"), one.array("scale_a").count,
                            one.data<float>("scale_b"), one.array("scale_b").count, nullptr};
  if (one.has("bias")) scales.bias = one.data<float>("bias");
  const nybble::ConvRun run{threads, one.integer("limit")};
  Output<float> out(one.array("out").count);
  const auto function = gemm == "output"       ? nybble::conv_output
                        : gemm == "grad_input" ? nybble::conv_grad_input
                                               : nybble::conv_grad_weight;
  function(s, direct(one, "a"), direct(one, "b"), scales, run, out.data());
  expect(one, "out", out);
}

void correlate(const Case& one, bool turned, const nybble::ConvShape& s, int threads) {
  nybble::WinogradCorrelation c{};
  c.image = winograd(one, "a"), c.kernels = winograd(one, "b"), c.turned = turned;
  c.n = s.images;
  c.height = turned ? s.out_h : s.height, c.width = turned ? s.out_w : s.width;
  c.channels = turned ? s.out_channels : s.channels;
  c.outputs = turned ? s.channels : s.out_channels;
  c.pad_h = turned ? 2 - s.pad_h : s.pad_h, c.pad_w = turned ? 2 - s.pad_w : s.pad_w;
  Output<float> scale(c.outputs), out(one.array("out").count);
  const auto& each = one.array("scale_b");
  for (int64_t i = 0; i < c.outputs; ++i)
    scale.data()[i] = one.real("scale_a") * one.data<float>("scale_b")[each.count == 1 ? 0 : i];
  c.scale = scale.data(), c.scale_per_image = false;
  c.bias = one.data<float>("bias");
  c.out = out.data(), c.threads = threads;
  nybble::winograd_correlate(c);
  expect(one, "out", out);
}

void grad_weight(const Case& one, const nybble::ConvShape& s, int64_t spill, int threads) {
  nybble::WinogradGradWeight c{};
  c.grad = winograd(one, "a"), c.image = winograd(one, "b");
  c.n = s.images, c.height = s.height, c.width = s.width;
  c.channels = s.channels, c.outputs = s.out_channels, c.pad_h = s.pad_h, c.pad_w = s.pad_w;
  Output<float> out(one.array("out").count);
  c.scale_grad = one.data<float>("scale_a"), c.scale_grad_count = one.array("scale_a").count;
  c.scale_image = one.data<float>("scale_b"), c.scale_image_count = one.array("scale_b").count;
  c.out = out.data(), c.spill = spill, c.threads = threads;
  nybble::winograd_grad_weight(c);
  expect(one, "out", out);
}

} // namespace

void run_conv(const Case& one, int threads) {
  const nybble::ConvShape s = shape_of(one);
  const std::string gemm = one.name.substr(0, one.name.find(' '));
  run_direct(one, gemm, s, threads);
  if (one.integer("winograd") == 0) return;
  if (gemm == "grad_weight") {
    grad_weight(one, s, INT32_MAX, threads);
    grad_weight(one, s, 2, threads);
  } else {
    correlate(one, gemm == "grad_input", s, threads);
  }
}

} // namespace nybble_tests
