// Fused batch normalisation and ReLU.
#include <limits>

#include "check.hpp"
#include "norm/norm.hpp"

namespace nybble_tests {
namespace {

void batch(const Case& one, int threads) {
  const int64_t pixels = one.array("x").sizes[0], channels = one.array("x").sizes[1];
  const nybble::NormShape shape{pixels, channels, threads};
  Output<float> y(pixels * channels), stats(nybble::kNormRows * channels);
  Output<float> mean(channels), var(channels);
  Output<uint8_t> codes(one.array("codes").count);
  std::memcpy(mean.data(), one.data<float>("mean_before"), size_t(channels) * sizeof(float));
  std::memcpy(var.data(), one.data<float>("var_before"), size_t(channels) * sizeof(float));
  const nybble::NormChannels values{
      one.data<float>("weight"), one.data<float>("bias"), mean.data(), var.data(), 0.1, 1e-5};
  nybble::batch_norm_forward(shape, one.data<float>("x"), values, one.integer("relu") != 0,
                             y.data(), codes.data(), stats.data());
  expect(one, "y", y);
  expect(one, "codes", codes);
  expect(one, "stats", stats);
  expect(one, "mean", mean);
  expect(one, "var", var);
  Output<float> dx(pixels * channels), dgamma(channels), dbeta(channels);
  nybble::batch_norm_backward(shape, one.data<float>("dy"), codes.data(), stats.data(), dx.data(),
                              dgamma.data(), dbeta.data());
  expect(one, "dx", dx);
  expect(one, "dgamma", dgamma);
  expect(one, "dbeta", dbeta);
}

} // namespace

void run_norm(const Case& one, int threads) {
  if (one.name.rfind("batch", 0) == 0) {
    batch(one, threads);
    return;
  }
  const int64_t count = one.array("x").count;
  Output<float> y(count), dx(count);
  Output<uint8_t> bits((count + 7) / 8);
  const float top = std::numeric_limits<float>::quiet_NaN();
  nybble::relu_forward(one.data<float>("x"), count, top, y.data(), bits.data(), threads);
  expect(one, "y", y);
  expect(one, "bits", bits);
  nybble::relu_backward(one.data<float>("dy"), bits.data(), count, dx.data(), threads);
  expect(one, "dx", dx);
}

} // namespace nybble_tests
