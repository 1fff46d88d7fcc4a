// nybble._core.conv_output, conv_grad_input, conv_grad_weight: checks, then the three Gemms.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "conv/shape.hpp"
#include "core/bind.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

// (address, bytes) of the codes, bits, (address, bytes) of the table, low, high
using OperandArgs = std::tuple<uintptr_t, size_t, int, uintptr_t, size_t, int64_t, int64_t>;
using Span = std::tuple<uintptr_t, size_t>;

ConvOperand operand(const OperandArgs& args, int64_t count, const char* what) {
  const auto& [packed, bytes, bits, table, table_bytes, low, high] = args;
  if (bits != 4 && bits != 8)
    throw std::invalid_argument(std::string(what) + ": codes of 4 or 8 bits are needed");
  if (low > 0 || high < 0 || low < -32768 || high > 32767)
    throw std::invalid_argument(std::string(what) + ": bounds must hold 0 and fit 16 bits");
  const int64_t need = bits == 4 ? packed_bytes4(count) : count;
  return {checked_array<const uint8_t>(packed, bytes, need, what), bits,
          checked_array<const int16_t>(table, table_bytes, bits == 4 ? 16 : 256, what), low, high};
}

int64_t product(std::initializer_list<int64_t> sizes, const char* what) {
  int64_t all = 1;
  for (const int64_t size : sizes)
    all = checked_product(all, size, what);
  return all;
}

int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation) {
  const int64_t reach = size + 2 * pad - dilation * (kernel - 1) - 1;
  if (reach < 0)
    throw std::invalid_argument(
        "convolution: the kernel reaches over " + std::to_string(dilation * (kernel - 1) + 1) +
        " pixels, more than the padded input's " + std::to_string(size + 2 * pad));
  return reach / stride + 1;
}

// images, height, width, channels, out channels, kernel (2), stride (2), padding (2), dilation (2),
// groups
ConvShape shape_of(const std::vector<int64_t>& n) {
  if (n.size() != 14) throw std::invalid_argument("convolution: 14 sizes are needed");
  for (size_t i = 0; i < n.size(); ++i) {
    const bool positive = (i >= 5 && i < 9) || i >= 11;
    if (n[i] < (positive ? 1 : 0) || n[i] > int64_t(1) << 40)
      throw std::invalid_argument("convolution: size number " + std::to_string(i) + " is " +
                                  std::to_string(n[i]));
  }
  ConvShape s{n[0], n[1],  n[2],  n[3],  n[4],  n[5], n[6], n[7], n[8],
              n[9], n[10], n[11], n[12], n[13], 0,    0,    0,    0};
  if (s.channels % s.groups != 0 || s.out_channels % s.groups != 0)
    throw std::invalid_argument("convolution: channels are no multiple of the groups");
  s.group_inputs = s.channels / s.groups, s.group_outputs = s.out_channels / s.groups;
  checked_product(s.dilation_h, s.kernel_h, "kernel"),
      checked_product(s.dilation_w, s.kernel_w, "kernel");
  s.out_h = output_size(s.height, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h);
  s.out_w = output_size(s.width, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w);
  // The padded input, in words, is the largest array that is made.
  product({s.images, s.height + 2 * s.pad_h, s.width + 2 * s.pad_w, s.channels, 2}, "input");
  product({s.images, s.out_h, s.out_w, s.out_channels, 4}, "output");
  product({s.out_channels, s.kernel_h, s.kernel_w, s.group_inputs, 64}, "weight");
  return s;
}

int64_t x_size(const ConvShape& s) {
  return product({s.images, s.height, s.width, s.channels}, "input");
}
int64_t y_size(const ConvShape& s) {
  return product({s.images, s.out_h, s.out_w, s.out_channels}, "output");
}
int64_t w_size(const ConvShape& s) {
  return product({s.out_channels, s.kernel_h, s.kernel_w, s.group_inputs}, "weight");
}

// A scale of 1 element, or `count`.
const float* scale(const Span& span, int64_t count, int64_t& elements, const char* what) {
  const auto& [address, bytes] = span;
  elements = int64_t(bytes / sizeof(float));
  if (elements != 1 && elements != count)
    throw std::invalid_argument(std::string(what) + ": one scale or " + std::to_string(count) +
                                " are needed, got " + std::to_string(elements));
  return checked_array<const float>(address, bytes, elements, what);
}

ConvScales scales_of(const Span& row, int64_t rows, const Span& column, int64_t columns) {
  ConvScales s{};
  s.row = scale(row, rows, s.rows, "scale");
  s.column = scale(column, columns, s.columns, "scale");
  return s;
}

template <class Gemm>
void call(Gemm gemm, const ConvShape& s, const ConvOperand& a, const ConvOperand& b,
          const ConvScales& scales, const Span& out, int64_t size, int threads, int64_t limit) {
  auto* to = checked_array<float>(std::get<0>(out), std::get<1>(out), size, "result");
  if (limit < 1 || limit > INT32_MAX) throw std::invalid_argument("limit: 1 to 2^31 - 1");
  nb::gil_scoped_release release;
  gemm(s, a, b, scales, ConvRun{std::clamp(threads, 1, 1024), limit}, to);
}

} // namespace

void bind_conv(nb::module_& m) {
  m.def(
      "conv_output",
      [](const std::vector<int64_t>& sizes, const OperandArgs& x, const OperandArgs& w,
         const Span& row, const Span& column, const Span& bias, const Span& out, int threads,
         int64_t limit) {
        const ConvShape s = shape_of(sizes);
        ConvScales scales = scales_of(row, s.images, column, s.out_channels);
        const auto [address, bytes] = bias;
        if (bytes != 0)
          scales.bias = checked_array<const float>(address, bytes, s.out_channels, "bias");
        call(conv_output, s, operand(x, x_size(s), "input"), operand(w, w_size(s), "weight"),
             scales, out, y_size(s), threads, limit);
      },
      nb::arg("sizes"), nb::arg("x"), nb::arg("w"), nb::arg("row"), nb::arg("column"),
      nb::arg("bias"), nb::arg("out"), nb::arg("threads"), nb::arg("limit") = INT32_MAX);
  m.def(
      "conv_grad_input",
      [](const std::vector<int64_t>& sizes, const OperandArgs& g, const OperandArgs& w,
         const Span& row, const Span& column, const Span& out, int threads, int64_t limit) {
        const ConvShape s = shape_of(sizes);
        call(conv_grad_input, s, operand(g, y_size(s), "gradient"), operand(w, w_size(s), "weight"),
             scales_of(row, s.images, column, s.channels), out, x_size(s), threads, limit);
      },
      nb::arg("sizes"), nb::arg("g"), nb::arg("w"), nb::arg("row"), nb::arg("column"),
      nb::arg("out"), nb::arg("threads"), nb::arg("limit") = INT32_MAX);
  m.def(
      "conv_grad_weight",
      [](const std::vector<int64_t>& sizes, const OperandArgs& g, const OperandArgs& x,
         const Span& row, const Span& column, const Span& out, int threads, int64_t limit) {
        const ConvShape s = shape_of(sizes);
        call(conv_grad_weight, s, operand(g, y_size(s), "gradient"), operand(x, x_size(s), "input"),
             scales_of(row, s.out_channels, column, s.group_inputs), out, w_size(s), threads,
             limit);
      },
      nb::arg("sizes"), nb::arg("g"), nb::arg("x"), nb::arg("row"), nb::arg("column"),
      nb::arg("out"), nb::arg("threads"), nb::arg("limit") = INT32_MAX);
}

} // namespace nybble
