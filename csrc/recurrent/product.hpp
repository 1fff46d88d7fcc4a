// Products of many small operands with one that stays: the weights of a time loop.
//
// The weights become panels once; each step packs its own rows and multiplies. The sums are those
// of gemm.hpp, exact in int32: `fits` says whether the contraction allows that.
#pragma once

#include <cstdint>
#include <vector>

#include "gemm/gemm.hpp"
#include "gemm/workers.hpp"

namespace nybble {

// The operand that comes step by step: 4-bit codes, a row after the other.
struct StepCodes {
  const int16_t* table;
  Bounds bounds;
};

class StepProduct {
public:
  // weights: [n, k] or, transposed, [k, n] (Matrix::contiguous: along k); at most `rows` rows come
  // at a time. scale and bias: of the n columns, as in gemm. Throws std::invalid_argument where the
  // contraction does not fit.
  StepProduct(const Matrix& weights, const StepCodes& codes, int64_t n, int64_t k, int64_t rows,
              Vector scale, Vector bias, int threads);

  static bool fits(Bounds a, Bounds b, int64_t k);

  // out[m, n] = codes[m, k] weights * (multiplier * scale) + bias; that of row i is
  // multipliers[i * apart]
  void run(const uint8_t* codes, int64_t m, const float* multipliers, int64_t apart, float* out);

private:
  struct Piece {
    int64_t from, count, groups;
    uint32_t *a, *b;
    int64_t a_stride, b_stride;
  };

  StepCodes codes_;
  Plan plan_;
  int64_t n_, k_;
  int threads_;
  bool has_bias_;
  std::vector<Piece> pieces_;
  std::vector<float> scale_, bias_;
  Scratch scratch_;
  uint8_t* decode_ = nullptr;
  int32_t *a_sums_ = nullptr, *b_sums_ = nullptr, *acc_ = nullptr;
};

} // namespace nybble
