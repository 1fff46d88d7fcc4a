// Scales of their own for the lines of a matrix (rows, columns, images): the inner loops.
//
// A line's scale needs its maximum, or its moments and errors, before its codes; and what a Gemm's
// contraction would not let out of the sum (the other operand's scale) is multiplied into the line
// first, "folded". Every operation is one float32 rounding, in the order that is written here.
#pragma once

#include <cstdint>

namespace nybble {

// One number for a whole line (`each` null), or one for each element of it.
struct Multiplier {
  const float* each;
  float one;
};

// Up to 8 rows of n floats (1, 2, 4 or 8), each row r with a number across[r]:
//     row_tops[r] = max(row_tops[r], bits of |x[r][j] * along[j]|)
//     column_tops[j] = max(column_tops[j], bits of |x[r][j] * across[r]|)
//     sums[j] = tree over r of x[r][j] * across[r]: (0 + 1) + (2 + 3), ..
// A NaN counts more than infinity. `along` may be null: ones. `sums` may be null.
struct FoldedRows {
  const float* row[8];
  float across[8];
  int count;
  int64_t n;
  const float* along;
  uint32_t* row_top[8];
  uint32_t* column_tops;
  float* sums;
};

// Nearest levels of a table: rank = how many of the thresholds lie at or below y.
struct LevelRule {
  float thresholds[15], unused; // ascending; those that are not used are NaN
  float levels[16];             // of a rank
};

// What a rule's levels are found by: its thresholds; those of |y|, where the negative half mirrors
// the positive one; or rounding to the nearest whole number, ties to even. `form_of` says which.
enum class LevelForm { Any, Mirrored, Whole };
LevelForm form_of(const LevelRule& rule);

struct FoldedPiece; // rounds.hpp
struct WholeLevels;

struct LineKernels {
  void (*folded)(const FoldedRows& rows);
  // y[j] = (x[j] * a) * b
  void (*scaled)(const float* x, int64_t n, Multiplier a, Multiplier b, float* y);
  // out[c][j] = (x[j] - level(x[j] * inv[c]) * scale[c])^2, for both candidates c
  void (*errors)(const float* x, int64_t n, const LevelRule& rule, LevelForm form,
                 const float* scale, const float* inv, float* const* out);
  // out[j] = x[j] * x[j]; returns the bits of max|x|
  uint32_t (*squares)(const float* x, int64_t n, float* out);
  // sums[j] += table[code j] over `rows` rows of 64 codes (a block), `step` bytes apart
  void (*add_codes)(const uint8_t* packed, int64_t step, int64_t rows, const int8_t* table,
                    int32_t* sums);
  // a[j] += b[j]
  void (*add)(float* a, const float* b, int64_t n);
  // out[j] += e * mu[j], both rounded
  void (*add_product)(float* out, int64_t n, float e, const float* mu);
  void (*rounded)(const FoldedPiece& piece, const WholeLevels& levels);
};

extern const LineKernels kLineGeneric;
extern const LineKernels kLineAvx2;

// What avx512vnni has of its own; core/dispatch.cpp puts them into a copy of kLineAvx2. Not here:
// code that runs while the module is loaded must not be compiled for a set that the CPU may lack.
void errors_avx512vnni(const float* x, int64_t n, const LevelRule& rule, LevelForm form,
                       const float* scale, const float* inv, float* const* out);
void rounded_avx512vnni(const FoldedPiece& piece, const WholeLevels& levels);

} // namespace nybble
