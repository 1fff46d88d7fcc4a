// `nybble._core.batch_norm_forward` and its like: sizes are checked here, then the GIL is let go.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "core/bind.hpp"
#include "norm/norm.hpp"
#include "norm/rows.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

using Span = std::tuple<uintptr_t, size_t>; // address, bytes; (0, 0) for nothing

template <class T>
T* array(const Span& span, int64_t count, const char* what) {
  return checked_array<T>(std::get<0>(span), std::get<1>(span), count, what);
}

template <class T>
T* optional_array(const Span& span, int64_t count, const char* what) {
  return std::get<0>(span) == 0 && std::get<1>(span) == 0 ? nullptr : array<T>(span, count, what);
}

NormShape shape(int64_t pixels, int64_t channels, int threads) {
  // One channel value is repeated up to 64 times (ranges.hpp).
  if (pixels < 1 || channels < 1 || channels > (int64_t(1) << 24) || threads < 1)
    throw std::invalid_argument("batch norm: " + std::to_string(pixels) + " pixels of " +
                                std::to_string(channels) + " channels on " +
                                std::to_string(threads) + " threads cannot be normalised");
  return {pixels, channels, threads};
}

void forward(int64_t pixels, int64_t channels, const Span& x, const Span& weight, const Span& bias,
             const Span& running_mean, const Span& running_var, double momentum, double eps,
             bool relu, const Span& y, const Span& packed, const Span& stats, int threads) {
  const NormShape s = shape(pixels, channels, threads);
  const int64_t count = checked_product(pixels, channels, "batch norm");
  const auto* from = array<const float>(x, count, "batch norm x");
  const NormChannels c = {optional_array<const float>(weight, channels, "batch norm weight"),
                          optional_array<const float>(bias, channels, "batch norm bias"),
                          optional_array<float>(running_mean, channels, "running mean"),
                          optional_array<float>(running_var, channels, "running variance"),
                          momentum,
                          eps};
  auto* to = array<float>(y, count, "batch norm y");
  auto* codes = array<uint8_t>(packed, packed_bytes4(count), "batch norm codes");
  auto* rows = array<float>(stats, checked_product(kNormRows, channels, "stats"), "stats");
  nb::gil_scoped_release release;
  batch_norm_forward(s, from, c, relu, to, codes, rows);
}

void backward(int64_t pixels, int64_t channels, const Span& dy, const Span& packed,
              const Span& stats, const Span& dx, const Span& dgamma, const Span& dbeta,
              int threads) {
  const NormShape s = shape(pixels, channels, threads);
  const int64_t count = checked_product(pixels, channels, "batch norm");
  const auto* grad = array<const float>(dy, count, "batch norm dy");
  const auto* codes = array<const uint8_t>(packed, packed_bytes4(count), "batch norm codes");
  const auto* rows =
      array<const float>(stats, checked_product(kNormRows, channels, "stats"), "stats");
  auto* to = optional_array<float>(dx, count, "batch norm dx");
  auto* gamma = array<float>(dgamma, channels, "batch norm dgamma");
  auto* beta = array<float>(dbeta, channels, "batch norm dbeta");
  nb::gil_scoped_release release;
  batch_norm_backward(s, grad, codes, rows, to, gamma, beta);
}

void relu(const Span& x, int64_t count, float top, const Span& y, const Span& bits, int threads) {
  const auto* from = array<const float>(x, count, "relu x");
  auto* to = array<float>(y, count, "relu y");
  auto* mask = array<uint8_t>(bits, (count + 7) / 8, "relu bits");
  nb::gil_scoped_release release;
  relu_forward(from, count, top, to, mask, threads);
}

void relu_grad(const Span& dy, const Span& bits, int64_t count, const Span& dx, int threads) {
  const auto* from = array<const float>(dy, count, "relu dy");
  const auto* mask = array<const uint8_t>(bits, (count + 7) / 8, "relu bits");
  auto* to = array<float>(dx, count, "relu dx");
  nb::gil_scoped_release release;
  relu_backward(from, mask, count, to, threads);
}

int64_t values(int64_t rows, int64_t width, int threads) {
  if (rows < 1 || width < 64 || width % 64 != 0 || threads < 1)
    throw std::invalid_argument("layer norm: " + std::to_string(rows) + " rows of " +
                                std::to_string(width) +
                                " values; the width must be a multiple of 64");
  return checked_product(rows, width, "layer norm");
}

void layer_forward(int64_t rows, int64_t width, const Span& x, const Span& weight, const Span& bias,
                   double eps, const Span& y, const Span& packed, const Span& stats, int threads) {
  const int64_t count = values(rows, width, threads);
  const auto* from = array<const float>(x, count, "layer norm x");
  const auto* w = optional_array<const float>(weight, width, "layer norm weight");
  const auto* b = optional_array<const float>(bias, width, "layer norm bias");
  auto* to = array<float>(y, count, "layer norm y");
  auto* codes = array<uint8_t>(packed, packed_bytes4(count), "layer norm codes");
  auto* pairs = array<float>(stats, 2 * rows, "layer norm stats");
  nb::gil_scoped_release release;
  layer_norm_forward(from, rows, width, w, b, float(eps), to, codes, pairs, threads);
}

void layer_backward(int64_t rows, int64_t width, const Span& dy, const Span& packed,
                    const Span& stats, const Span& weight, const Span& dx, const Span& dweight,
                    const Span& dbias, int threads) {
  const int64_t count = values(rows, width, threads);
  const auto* grad = array<const float>(dy, count, "layer norm dy");
  const auto* codes = array<const uint8_t>(packed, packed_bytes4(count), "layer norm codes");
  const auto* pairs = array<const float>(stats, 2 * rows, "layer norm stats");
  const auto* w = optional_array<const float>(weight, width, "layer norm weight");
  auto* to = optional_array<float>(dx, count, "layer norm dx");
  auto* dw = array<float>(dweight, width, "layer norm dweight");
  auto* db = array<float>(dbias, width, "layer norm dbias");
  nb::gil_scoped_release release;
  layer_norm_backward(grad, codes, pairs, rows, width, w, to, dw, db, threads);
}

void pack_slopes(const Span& slopes, int64_t count, const Span& packed, int threads) {
  const auto* from = array<const float>(slopes, count, "slopes");
  auto* codes = array<uint8_t>(packed, packed_bytes4(count), "slope codes");
  nb::gil_scoped_release release;
  slopes_forward(from, count, codes, threads);
}

void slope_grad(const Span& dy, const Span& packed, int64_t count, const Span& dx, int threads) {
  const auto* grad = array<const float>(dy, count, "slope dy");
  const auto* codes = array<const uint8_t>(packed, packed_bytes4(count), "slope codes");
  auto* to = array<float>(dx, count, "slope dx");
  nb::gil_scoped_release release;
  slopes_backward(grad, codes, count, to, threads);
}

} // namespace

void bind_norm(nb::module_& m) {
  m.def("batch_norm_forward", &forward);
  m.def("batch_norm_backward", &backward);
  m.def("relu_forward", &relu);
  m.def("relu_backward", &relu_grad);
  m.def("layer_norm_forward", &layer_forward);
  m.def("layer_norm_backward", &layer_backward);
  m.def("pack_slopes", &pack_slopes);
  m.def("slope_grad", &slope_grad);
}

} // namespace nybble
