// Rounding at random on small whole numbers: fold, scale, round and pack in one pass.
//
// Where the levels are 0 and +-l_1 .. l_7, of which l_1 .. l_6 are whole numbers below 32, the rank
// of |y| is read from a table of 32 bytes by its whole part; so nothing is searched, and what was
// scaled is never written to memory. The codes are those of StochasticRule (quantize/pack.hpp).
#pragma once

#include <cstdint>

#include "lines/kernels.hpp"
#include "quantize/pack.hpp"

namespace nybble {

struct WholeLevels {
  float level[8], width[8]; // l_0 = 0 .. l_7, and to the next one
  // below(|y|) = low[min(w, 15)] + high[w - 16] (0 for w < 16), w the whole part of min(|y|, l_7):
  // the largest r < 7 with l_r <= |y|. high[0] is 0.
  uint8_t low[16], high[16];
  uint8_t codes[16]; // of rank -7 .. 7, which is the place less 7
};

// Whether the rule is one of such levels.
bool whole_levels(const StochasticRule& rule, WholeLevels* out);

// Codes of (x[j] * fold) * inv for rows of n elements, which are whole blocks of 64; the rows are
// `step` elements apart in x and in the codes, and not in the random bits.
struct FoldedPiece {
  const float* x;
  int64_t rows, n, step;
  Multiplier fold, inv;  // of every row
  const int32_t* random; // 24 bits an element
  uint8_t* codes;
};

void rounded_generic(const FoldedPiece& piece, const WholeLevels& levels);
void rounded_avx2(const FoldedPiece& piece, const WholeLevels& levels);

} // namespace nybble
