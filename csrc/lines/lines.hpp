// What the Python functions call: matrices with a scale of their own for each line.
#pragma once

#include <cstdint>

#include "lines/kernels.hpp"
#include "quantize/drivers.hpp"

namespace nybble {

// Maxima and sums of a folded matrix x [rows, columns], read once:
//     row_tops[m]    = bits of max over n of |x[m][n] * along[n]|
//     column_tops[n] = bits of max over m of |x[m][n] * across[m]|
//     sums[n]        = tree sum over m of x[m][n] * across[m], in the order of quantizers/sums.py
// `along` and `across` may be null: ones; `sums` may be null.
struct FoldedMatrix {
  const float* x;
  int64_t rows, columns;
  const float* along;
  const float* across;
  uint32_t* row_tops;
  uint32_t* column_tops;
  float* sums;
};

void folded_statistics(const FoldedMatrix& matrix, int threads);

// The scales of lines with those maxima, `levels` being what a maximum becomes, and their inverses.
void line_scales(const float* tops, int64_t n, float levels, float* scale, float* inv);

// Codes of fl(fl(x * fold) * inv) by stochastic rounding, for up to two operands in one read.
struct FoldedOperand {
  Factors fold, inv; // of each element; a count of 0: absent
  StochasticRule rule;
  RandomStream stream;
  uint8_t* codes; // null: not wanted
};

void folded_pack(const float* x, int64_t rows, int64_t columns, const FoldedOperand& first,
                 const FoldedOperand& second, const Order& order, int threads);

// quantizers/scales/best.py for the rows of x: the scales and their inverses.
struct BestOfTwo {
  LevelRule levels;
  float top, rms; // what the maximum becomes, and the unit in root mean squares
  float empty;    // the scale of a row of zeros
};

void best_of_two(const float* x, int64_t rows, int64_t n, const BestOfTwo& rule, float* scale,
                 float* inv, int threads);

// sums[n] = sum over m of table[code[m][n]]
void column_sums(const uint8_t* packed, const int8_t* table, int64_t rows, int64_t columns,
                 int64_t* sums, int threads);

// out[i][j] += e[i] * mu[j]
void add_outer(float* out, int64_t rows, int64_t columns, const float* e, const float* mu,
               int threads);

} // namespace nybble
