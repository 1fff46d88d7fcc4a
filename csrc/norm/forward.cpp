#include <cmath>
#include <vector>

#include "core/dispatch.hpp"
#include "norm/kernels.hpp"
#include "norm/norm.hpp"
#include "norm/ranges.hpp"

namespace nybble {
namespace {

constexpr double kStepSize = 0.375, kRange = 3.0; // src/nybble/nn/memory/grid.py

struct Moments {
  double mean, var;
};

// Plain two passes in double, for channels whose float sums were not finite: either an input was
// not (then the result is NaN), or differences were too large to be squared in float32.
Moments moments_in_double(const float* x, const NormShape& s, int64_t c) {
  double sum = 0.0, square = 0.0;
  for (int64_t p = 0; p < s.pixels; ++p)
    sum += double(x[p * s.channels + c]);
  const double mean = sum / double(s.pixels);
  for (int64_t p = 0; p < s.pixels; ++p) {
    const double d = double(x[p * s.channels + c]) - mean;
    square += d * d;
  }
  return {mean, square / double(s.pixels)};
}

// The sums are of differences to a shift near the mean: of a few pixels first, and once more of the
// mean itself where the first guess was so far off that the variance lost digits.
std::vector<Moments> moments(const NormShape& s, const float* x) {
  const int64_t samples = s.pixels < 16 ? s.pixels : 16;
  std::vector<float> shift(size_t(s.channels));
  for (int64_t c = 0; c < s.channels; ++c) {
    double sum = 0.0;
    for (int64_t i = 0; i < samples; ++i)
      sum += double(x[i * (s.pixels / samples) * s.channels + c]);
    shift[size_t(c)] = float(sum / double(samples));
  }
  ChannelSums sums(s.pixels, s.channels);
  std::vector<Moments> found(size_t(s.channels));
  for (int round = 0; round < 2; ++round) {
    const std::vector<double> total =
        sums.add(s.threads, [&](int64_t from, int64_t to, double* a, double* b, float* work) {
          active().norm->moments(x + from * s.channels, shift.data(), to - from, s.channels, a, b,
                                 work);
        });
    bool again = false;
    for (int64_t c = 0; c < s.channels; ++c) {
      const double off = total[size_t(c)] / double(s.pixels);
      const double square = total[size_t(s.channels + c)] / double(s.pixels);
      const double var = square - off * off;
      Moments& m = found[size_t(c)];
      m = {double(shift[size_t(c)]) + off, var > 0.0 ? var : 0.0};
      if (!std::isfinite(off) || !std::isfinite(square)) {
        m = moments_in_double(x, s, c);
      } else if (off * off > 64.0 * var) {
        again = true;
      }
      shift[size_t(c)] = float(m.mean);
    }
    if (!again) break;
  }
  return found;
}

} // namespace

void batch_norm_forward(const NormShape& s, const float* x, const NormChannels& channels, bool relu,
                        float* y, uint8_t* packed, float* stats) {
  const std::vector<Moments> found = moments(s, x);
  Periodic values(s.channels, 5);
  const double n = double(s.pixels);
  for (int64_t c = 0; c < s.channels; ++c) {
    const auto [mean, var] = found[size_t(c)];
    const float gamma = channels.weight ? channels.weight[c] : 1.0f;
    const float beta = channels.bias ? channels.bias[c] : 0.0f;
    const double invstd = 1.0 / std::sqrt(var + channels.eps);
    const float scale = gamma * float(invstd);
    const double sign = gamma < 0.0f ? -1.0 : 1.0;
    double anchor = 0.0, k = 8.0;
    if (relu) {
      // gamma = beta = 0 gives NaN: y = 0 is masked everywhere, like an infinite threshold
      const double threshold = double(-beta) / std::fabs(double(gamma));
      anchor = threshold < kRange ? (threshold > -kRange ? threshold : -kRange) : kRange;
      k = std::nearbyint(anchor / kStepSize) + 8.0;
      k = k < 1.0 ? 1.0 : k > 15.0 ? 15.0 : k;
    }
    const double rate = sign * invstd / kStepSize;
    values.at(0, c) = scale;
    values.at(1, c) = beta - float(mean) * scale;
    values.at(2, c) = float(rate);
    values.at(3, c) = float(k - anchor / kStepSize - mean * rate);
    values.at(4, c) = float(k);
    float* row = stats + c;
    row[kMean * s.channels] = float(mean);
    row[kScale * s.channels] = scale;
    row[kStep * s.channels] = float(sign * kStepSize);
    row[kOffset * s.channels] = float(sign * (anchor + (0.5 - k) * kStepSize));
    row[kFirst * s.channels] = relu ? float(k) : 0.0f;
    const double m = channels.momentum;
    if (channels.running_mean)
      channels.running_mean[c] = float((1.0 - m) * double(channels.running_mean[c]) + m * mean);
    if (channels.running_var)
      channels.running_var[c] =
          float((1.0 - m) * double(channels.running_var[c]) + m * (var * (n / (n - 1.0))));
  }
  values.repeat();
  const int64_t count = s.pixels * s.channels;
  const NormKernels& kernels = *active().norm;
  for_blocks(count, s.threads, [&](int64_t at, int64_t blocks) {
    kernels.normalise(x + 64 * at, blocks, values.data(), values.period(), values.phase(at), relu,
                      y + 64 * at, packed + 32 * at);
  });
  Tail tail(x, count);
  if (tail.count == 0) return;
  uint8_t* codes = packed + tail.at / 2;
  kernels.normalise(tail.in, 1, values.data(), values.period(), values.phase(tail.at / 64), relu,
                    tail.out, codes);
  tail.store(y);
  clear_codes(codes, tail.count);
}

void relu_forward(const float* x, int64_t count, float top, float* y, uint8_t* bits, int threads) {
  const NormKernels& kernels = *active().norm;
  for_blocks(count, threads, [&](int64_t at, int64_t blocks) {
    kernels.relu(x + 64 * at, blocks, top, y + 64 * at, bits + 8 * at);
  });
  Tail tail(x, count);
  if (tail.count == 0) return;
  uint8_t last[8];
  kernels.relu(tail.in, 1, top, tail.out, last);
  tail.store(y);
  std::memcpy(bits + tail.at / 8, last, size_t(tail.count + 7) / 8);
}

} // namespace nybble
