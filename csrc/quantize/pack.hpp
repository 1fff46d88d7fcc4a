// Float memory to packed 4-bit codes in one pass: what the kernels of quantize/ are given.
//
//     y = fl(x * factor)  [ + zero, rounded ]        code = rule(y)
//
// A kernel takes `n` elements that start a block of 64 codes (core/unpack.hpp), writes whole blocks
// (codes beyond n are 0) and mask bits (eight a byte, lowest first, bits beyond n are 0), and
// returns the bits of max|x|, in which any NaN counts more than infinity.
//
// Rules: integers by one conversion; logarithmic formats whose thresholds are one constant apart in
// the bit pattern, on one or two grids, by a subtraction and a shift; anything else that is
// monotone by at most 15 thresholds; and stochastic rounding between neighbouring levels.
//
// A NaN in x makes the scale of the operand NaN (the caller sees it in the maximum), so its code
// has no meaning; it is still the same code in every instruction set.
#pragma once

#include <cstdint>

namespace nybble {

struct Piece {
  const void* x; // float, or the upper halves of floats where `bf16`
  bool bf16;
  int64_t n;
  float factor;
  const int32_t* random; // 24 bits an element, for stochastic rounding
  uint8_t* codes;
  uint8_t* second; // codes of the second grid, where the rule has two
  uint8_t* mask;   // null, or bits of inside_low <= y <= inside_high
  float inside_low, inside_high;
};

// round to nearest even of y clamped to [low, high]; two's complement of `nibble` bits.
struct IntegerRule {
  int32_t low, high;
  uint32_t nibble; // 2^bits - 1
  bool affine;
  float zero;
};

// magnitude code m = how many of the thresholds t_1 < t_2 < .. lie at or below |y|, where
// bits(t_m) = bits(t_1) + (m - 1) 2^shift. Only the upper 16 bits of (bits(y) + carry) are looked
// at: carry = -bits(t_1) mod 2^16 lifts every |y| >= t_m over a multiple of 2^16.
struct LogPhase {
  uint16_t start;    // upper half of bits(t_1) + carry - 2^shift
  uint16_t shift;    // less 16
  uint16_t top;      // largest magnitude code
  uint16_t half;     // underflow "half": upper half of the bits of the bound up to which y is 0
  uint8_t table[16]; // 8 + signed magnitude code -> code
};
struct LogRule {
  uint16_t carry;
  uint16_t halves; // whether `half` counts; then what lies above it is at least level 1
  LogPhase phase[2];
};

// rank = how many thresholds are <= y; unused thresholds are NaN.
struct ThresholdRule {
  float thresholds[15];
  float unused;
  uint8_t table[16]; // rank -> code
};

// The neighbours lo <= m <= hi of m = y, or m = |y| where `magnitude`, among ascending levels:
// the upper one if random * 2^-24 < fl(fl(m - lo) / fl(hi - lo)).
struct StochasticRule {
  float levels[16];
  int32_t count; // of levels: at most 8 with `magnitude`
  int32_t magnitude;
  float zero;
  uint8_t table[16]; // rank, plus 8 where `magnitude` and y < 0 -> code
};

struct QuantizeKernels {
  uint32_t (*integer)(const Piece&, const IntegerRule&);
  uint32_t (*log)(const Piece&, const LogRule&); // two grids where `second` is given
  uint32_t (*thresholds)(const Piece&, const ThresholdRule&);
  uint32_t (*stochastic)(const Piece&, const StochasticRule&);
};

extern const QuantizeKernels kQuantizeGeneric;
extern const QuantizeKernels kQuantizeAvx2;

} // namespace nybble
