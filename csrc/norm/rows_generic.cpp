#include <cmath>

#include "norm/kernels.hpp"
#include "norm/rows.hpp"

namespace nybble {
namespace {

float larger(float a, float b) { return a > b ? a : b; }
float clipped(float code) {
  code = larger(code, 0.0f);
  return code < 15.0f ? code : 15.0f;
}

int code_at(const uint8_t* packed, int64_t e) {
  const uint8_t both = packed[e / 64 * 32 + e % 32];
  return e % 64 < 32 ? both & 15 : both >> 4;
}

void put(uint8_t* packed, int64_t e, int code) {
  uint8_t& both = packed[e / 64 * 32 + e % 32];
  both = e % 64 < 32 ? uint8_t(code) : uint8_t(both | code << 4);
}

float tree(const float* v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

void forward(const float* x, int64_t rows, int64_t width, const float* weight, const float* bias,
             float eps, float* y, uint8_t* packed, float* stats) {
  for (int64_t r = 0; r < rows; ++r, x += width, y += width, packed += width / 2, stats += 2) {
    float s[8] = {}, q[8] = {}, top = 0.0f;
    for (int64_t i = 0; i < width; ++i)
      s[i % 8] = s[i % 8] + x[i];
    const float mean = tree(s) / float(width);
    for (int64_t i = 0; i < width; ++i) {
      const float d = x[i] - mean;
      q[i % 8] = q[i % 8] + d * d;
      top = larger(std::fabs(d), top);
    }
    const float rstd = 1.0f / std::sqrt(tree(q) / float(width) + eps);
    const float inverse = top > 0.0f ? 7.5f / top : 0.0f;
    for (int64_t i = 0; i < width; ++i) {
      const float d = x[i] - mean, placed = d * inverse;
      put(packed, i, int(clipped(std::floor(placed + 8.0f))));
      float out = d * rstd;
      if (weight) out = out * weight[i];
      y[i] = bias ? out + bias[i] : out;
    }
    stats[0] = top * rstd / 7.5f;
    stats[1] = rstd;
  }
}

void backward(const float* dy, const uint8_t* packed, const float* stats, int64_t rows,
              int64_t width, const float* weight, float* dx, double* sum, double* product,
              float* work) {
  float *s = work, *q = work + width;
  for (int64_t i = 0; i < 2 * width; ++i)
    work[i] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    const float step = stats[2 * r], rstd = stats[2 * r + 1];
    float h1[8] = {}, h2[8] = {};
    for (int64_t i = 0; i < width; ++i) {
      const float xhat = (float(code_at(packed, i)) - 7.5f) * step, g = dy[i];
      s[i] = s[i] + g;
      q[i] = q[i] + g * xhat;
      const float h = weight ? g * weight[i] : g;
      h1[i % 8] = h1[i % 8] + h;
      h2[i % 8] = h2[i % 8] + h * xhat;
    }
    const float mean = tree(h1) / float(width), along = tree(h2) / float(width);
    for (int64_t i = 0; dx && i < width; ++i) {
      const float xhat = (float(code_at(packed, i)) - 7.5f) * step;
      const float h = weight ? dy[i] * weight[i] : dy[i];
      const float back = xhat * along;
      dx[i] = ((h - mean) - back) * rstd;
    }
    if ((r + 1) % kFlush == 0 || r + 1 == rows)
      for (int64_t i = 0; i < width; ++i) {
        sum[i] += double(s[i]);
        product[i] += double(q[i]);
        s[i] = q[i] = 0.0f;
      }
    dy += width;
    packed += width / 2;
    if (dx) dx += width;
  }
}

void pack_slopes(const float* slopes, int64_t blocks, uint8_t* packed) {
  for (int64_t e = 0; e < 64 * blocks; ++e) {
    const float twelfths = slopes[e] * 12.0f;
    put(packed, e, int(clipped(std::floor(twelfths + 2.5f))));
  }
}

void slope_grad(const float* dy, const uint8_t* packed, int64_t blocks, float* dx) {
  for (int64_t e = 0; e < 64 * blocks; ++e) {
    const float slope = (float(code_at(packed, e)) - 2.0f) * (1.0f / 12.0f);
    dx[e] = slope * dy[e];
  }
}

} // namespace

const RowKernels kRowsGeneric = {forward, backward, pack_slopes, slope_grad};

} // namespace nybble
