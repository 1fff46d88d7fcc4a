// The line kernels one element at a time: the twin of kernels_avx2.cpp, operation by operation.
#include <cstring>

#include "lines/kernels.hpp"
#include "lines/rounds.hpp"

namespace nybble {
namespace {

uint32_t magnitude_bits(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  return b & 0x7fffffffu;
}

void raise(uint32_t& top, float x) {
  const uint32_t b = magnitude_bits(x);
  top = b > top ? b : top;
}

void folded(const FoldedRows& p) {
  for (int64_t j = 0; j < p.n; ++j) {
    float z[8] = {};
    for (int r = 0; r < p.count; ++r) {
      const float x = p.row[r][j];
      raise(*p.row_top[r], p.along == nullptr ? x : x * p.along[j]);
      z[r] = x * p.across[r];
      raise(p.column_tops[j], z[r]);
    }
    for (int count = p.count; count > 1; count /= 2)
      for (int i = 0; i < count / 2; ++i)
        z[i] = z[2 * i] + z[2 * i + 1];
    if (p.sums != nullptr) p.sums[j] = z[0];
  }
}

void scaled(const float* x, int64_t n, Multiplier a, Multiplier b, float* y) {
  for (int64_t j = 0; j < n; ++j) {
    const float z = x[j] * (a.each == nullptr ? a.one : a.each[j]);
    y[j] = z * (b.each == nullptr ? b.one : b.each[j]);
  }
}

void errors(const float* x, int64_t n, const LevelRule& rule, LevelForm, const float* scale,
            const float* inv, float* const* out) {
  for (int c = 0; c < 2; ++c)
    for (int64_t j = 0; j < n; ++j) {
      const float y = x[j] * inv[c];
      int rank = 0;
      for (float t : rule.thresholds)
        rank += y >= t;
      const float miss = x[j] - rule.levels[rank] * scale[c];
      out[c][j] = miss * miss;
    }
}

uint32_t squares(const float* x, int64_t n, float* out) {
  uint32_t top = 0;
  for (int64_t j = 0; j < n; ++j) {
    raise(top, x[j]);
    out[j] = x[j] * x[j];
  }
  return top;
}

void add_codes(const uint8_t* packed, int64_t step, int64_t rows, const int8_t* table,
               int32_t* sums) {
  for (int64_t row = 0; row < rows; ++row, packed += step)
    for (int j = 0; j < 32; ++j) {
      sums[j] += table[packed[j] & 15];
      sums[j + 32] += table[packed[j] >> 4];
    }
}

void add(float* a, const float* b, int64_t n) {
  for (int64_t j = 0; j < n; ++j)
    a[j] = a[j] + b[j];
}

void add_product(float* out, int64_t n, float e, const float* mu) {
  for (int64_t j = 0; j < n; ++j) {
    const float product = e * mu[j];
    out[j] = out[j] + product;
  }
}

} // namespace

const LineKernels kLineGeneric = {folded,    scaled, errors,      squares,
                                  add_codes, add,    add_product, rounded_generic};

} // namespace nybble
