#include <cmath>

#include "norm/kernels.hpp"
#include "norm/rows.hpp"

namespace nybble {
namespace {

// a > b ? a : b and a < b ? a : b are what the SIMD instructions compute, for NaN as well: b.
float larger(float a, float b) { return a > b ? a : b; }
float smaller(float a, float b) { return a < b ? a : b; }

int code_at(const uint8_t* packed, int64_t e) {
  const int64_t inside = e % 64;
  const uint8_t both = packed[e / 64 * 32 + inside % 32];
  return inside < 32 ? both & 15 : both >> 4;
}

void flush(double* to, float* from, int64_t channels) {
  for (int64_t c = 0; c < channels; ++c) {
    to[c] += double(from[c]);
    from[c] = 0.0f;
  }
}

void moments(const float* x, const float* shift, int64_t pixels, int64_t channels, double* sum,
             double* square, float* work) {
  float *s = work, *q = work + channels;
  for (int64_t c = 0; c < 2 * channels; ++c)
    work[c] = 0.0f;
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const float d = x[p * channels + c] - shift[c];
      s[c] = s[c] + d;
      q[c] = q[c] + d * d;
    }
    if ((p + 1) % kFlush == 0 || p + 1 == pixels) {
      flush(sum, s, channels);
      flush(square, q, channels);
    }
  }
}

void normalise(const float* x, int64_t blocks, const float* values, int64_t period, int64_t phase,
               bool relu, float* y, uint8_t* packed) {
  for (int64_t b = 0; b < blocks; ++b, x += 64, y += 64, packed += 32) {
    const float* v = values + phase;
    uint8_t codes[64];
    for (int i = 0; i < 64; ++i) {
      const float in = x[i], scaled = in * v[i], out = scaled + v[period + i];
      const float placed = in * v[2 * period + i];
      float code = std::floor(placed + v[3 * period + i]);
      if (relu) {
        const float first = v[4 * period + i];
        code = out > 0.0f ? smaller(larger(code, first), 15.0f)
                          : larger(smaller(code, first - 1.0f), 0.0f);
        y[i] = larger(0.0f, out);
      } else {
        code = smaller(larger(code, 0.0f), 15.0f);
        y[i] = out;
      }
      codes[i] = uint8_t(int(code));
    }
    for (int i = 0; i < 32; ++i)
      packed[i] = uint8_t(codes[i] | codes[i + 32] << 4);
    phase = phase + 64 == period ? 0 : phase + 64;
  }
}

void grad_sums(const float* dy, const uint8_t* packed, const float* first, int64_t from, int64_t to,
               int64_t channels, double* sum, double* product, float* work) {
  float *s = work, *q = work + channels;
  for (int64_t c = 0; c < 2 * channels; ++c)
    work[c] = 0.0f;
  for (int64_t p = from; p < to; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t e = p * channels + c;
      const float code = float(code_at(packed, e)), g = code >= first[c] ? dy[e] : 0.0f;
      s[c] = s[c] + g;
      q[c] = q[c] + g * code;
    }
    if ((p - from + 1) % kFlush == 0 || p + 1 == to) {
      flush(sum, s, channels);
      flush(product, q, channels);
    }
  }
}

void grad_input(const float* dy, const uint8_t* packed, int64_t blocks, const float* values,
                int64_t period, int64_t phase, float* dx) {
  for (int64_t b = 0; b < blocks; ++b, dy += 64, dx += 64, packed += 32) {
    const float* v = values + phase;
    for (int i = 0; i < 64; ++i) {
      const float code = float(i < 32 ? packed[i] & 15 : packed[i - 32] >> 4);
      const float g = code >= v[3 * period + i] ? dy[i] : 0.0f;
      const float along = v[i] * g, back = v[period + i] * code;
      dx[i] = (along + back) + v[2 * period + i];
    }
    phase = phase + 64 == period ? 0 : phase + 64;
  }
}

void relu(const float* x, int64_t blocks, float top, float* y, uint8_t* bits) {
  for (int64_t b = 0; b < 8 * blocks; ++b, x += 8, y += 8) {
    int byte = 0;
    for (int i = 0; i < 8; ++i) {
      const float in = x[i];
      const bool over = in >= top;
      byte |= int(!(in <= 0.0f) && !over) << i;
      y[i] = over ? top : larger(0.0f, in);
    }
    bits[b] = uint8_t(byte);
  }
}

void relu_grad(const float* dy, const uint8_t* bits, int64_t blocks, float* dx) {
  for (int64_t b = 0; b < 8 * blocks; ++b, dy += 8, dx += 8)
    for (int i = 0; i < 8; ++i)
      dx[i] = bits[b] >> i & 1 ? dy[i] : 0.0f;
}

} // namespace

const NormKernels kNormGeneric = {moments, normalise, grad_sums,    grad_input,
                                  relu,    relu_grad, &kRowsGeneric};

} // namespace nybble
