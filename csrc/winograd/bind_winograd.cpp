// Python: nybble._core.winograd_*; sizes are checked here, meanings in ops/native/winograd.py.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "core/bind.hpp"
#include "core/parallel.hpp"
#include "winograd/winograd.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

using Span = std::pair<uintptr_t, size_t>;

struct Shape {
  int64_t n, height, width, channels, outputs, pad_h, pad_w;

  void check() const {
    for (const int64_t size : {n, height, width, channels, outputs, pad_h, pad_w})
      if (size < 0 || size > (int64_t(1) << 31))
        throw std::invalid_argument("winograd: a size is negative or too large");
    if (out_height() < 1 || out_width() < 1)
      throw std::invalid_argument("winograd: the padded image is smaller than the kernel");
  }
  int64_t out_height() const { return height + 2 * pad_h - 2; }
  int64_t out_width() const { return width + 2 * pad_w - 2; }
  int64_t image() const { return product(height, width, channels); }
  int64_t result() const { return product(out_height(), out_width(), outputs); }
  int64_t weights() const { return product4(outputs, 9, channels, 1); }

private:
  int64_t product(int64_t a, int64_t b, int64_t c) const { return product4(n, a, b, c); }
  static int64_t product4(int64_t a, int64_t b, int64_t c, int64_t d) {
    return checked_product(checked_product(a, b, "winograd"), checked_product(c, d, "winograd"),
                           "winograd");
  }
};

WinogradOperand operand(uintptr_t packed, size_t bytes, uintptr_t table, size_t table_bytes,
                        int64_t low, int64_t high, int64_t count) {
  return {checked_array<const uint8_t>(packed, bytes, packed_bytes4(count), "winograd codes"),
          checked_array<const int16_t>(table, table_bytes, 16, "winograd table"),
          {low, high}};
}

} // namespace

void bind_winograd(nb::module_& m) {
  m.def("winograd_correlation_plan",
        [](int64_t low_a, int64_t high_a, int64_t low_w, int64_t high_w, int64_t contraction) {
          return int(correlation_plan({low_a, high_a}, {low_w, high_w}, contraction));
        });
  m.def("winograd_grad_weight_tiles",
        [](int64_t low_g, int64_t high_g, int64_t low_x, int64_t high_x) {
          return grad_weight_tiles({low_g, high_g}, {low_x, high_x});
        });
  m.def("winograd_correlate",
        [](uintptr_t image, size_t image_bytes, uintptr_t image_table, size_t image_table_bytes,
           int64_t image_low, int64_t image_high, uintptr_t kernels, size_t kernels_bytes,
           uintptr_t kernels_table, size_t kernels_table_bytes, int64_t kernels_low,
           int64_t kernels_high, bool turned, int64_t n, int64_t height, int64_t width,
           int64_t channels, int64_t outputs, int64_t pad_h, int64_t pad_w, uintptr_t scale,
           size_t scale_bytes, bool scale_per_image, uintptr_t bias, size_t bias_bytes,
           uintptr_t out, size_t out_bytes, int threads) {
          const Shape shape{n, height, width, channels, outputs, pad_h, pad_w};
          shape.check();
          WinogradCorrelation c{};
          c.image = operand(image, image_bytes, image_table, image_table_bytes, image_low,
                            image_high, shape.image());
          c.kernels = operand(kernels, kernels_bytes, kernels_table, kernels_table_bytes,
                              kernels_low, kernels_high, shape.weights());
          c.turned = turned;
          c.n = n, c.height = height, c.width = width, c.channels = channels, c.outputs = outputs;
          c.pad_h = pad_h, c.pad_w = pad_w;
          c.scale = checked_array<const float>(
              scale, scale_bytes, checked_product(scale_per_image ? n : 1, outputs, "scale"),
              "winograd scale");
          c.scale_per_image = scale_per_image;
          c.bias = bias == 0
                       ? nullptr
                       : checked_array<const float>(bias, bias_bytes, outputs, "winograd bias");
          c.out = checked_array<float>(out, out_bytes, shape.result(), "winograd out");
          c.threads = std::clamp(threads, 1, kMostThreads);
          nb::gil_scoped_release release;
          winograd_correlate(c);
        });
  m.def(
      "winograd_grad_weight",
      [](uintptr_t grad, size_t grad_bytes, uintptr_t grad_table, size_t grad_table_bytes,
         int64_t grad_low, int64_t grad_high, uintptr_t image, size_t image_bytes,
         uintptr_t image_table, size_t image_table_bytes, int64_t image_low, int64_t image_high,
         int64_t n, int64_t height, int64_t width, int64_t channels, int64_t outputs, int64_t pad_h,
         int64_t pad_w, uintptr_t scale_grad, size_t scale_grad_bytes, uintptr_t scale_image,
         size_t scale_image_bytes, uintptr_t out, size_t out_bytes, int64_t spill, int threads) {
        const Shape shape{n, height, width, channels, outputs, pad_h, pad_w};
        shape.check();
        WinogradGradWeight c{};
        c.grad = operand(grad, grad_bytes, grad_table, grad_table_bytes, grad_low, grad_high,
                         shape.result());
        c.image = operand(image, image_bytes, image_table, image_table_bytes, image_low, image_high,
                          shape.image());
        c.n = n, c.height = height, c.width = width, c.channels = channels, c.outputs = outputs;
        c.pad_h = pad_h, c.pad_w = pad_w;
        c.scale_grad_count = scale_grad_bytes > sizeof(float) ? outputs : 1;
        c.scale_grad = checked_array<const float>(scale_grad, scale_grad_bytes, c.scale_grad_count,
                                                  "winograd scale of the gradient");
        c.scale_image_count = scale_image_bytes > sizeof(float) ? channels : 1;
        c.scale_image = checked_array<const float>(
            scale_image, scale_image_bytes, c.scale_image_count, "winograd scale of the image");
        c.out = checked_array<float>(out, out_bytes, shape.weights(), "winograd out");
        c.spill = spill;
        c.threads = std::clamp(threads, 1, kMostThreads);
        nb::gil_scoped_release release;
        winograd_grad_weight(c);
      });
}

} // namespace nybble
