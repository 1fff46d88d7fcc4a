// Bytes or words, and how many products an int32 sum may hold: chosen from the operands' bounds.
//
//     bytes   u = p - low(p) unsigned, q signed:  sum p q = sum u q + low(p) sum q
//             if 2 * max(u) * max|q| <= 32767 (the 16-bit pair sums of vpmaddubsw), or wherever the
//             kernels have no such sums (micro.hpp: saturates)
//     words   both as they are; two products of 16-bit integers fit int32
//
// Either operand may be the unsigned one. The second is, without a correction, if its low is 0; the
// first with the correction low(p) * sum q, where the sum runs over the same k. Then `per_k` bounds
// what one k adds to the sum of magnitudes, correction included.
#pragma once

#include <cstdint>

#include "conv/shape.hpp"
#include "core/dispatch.hpp"
#include "gemm/micro.hpp"

namespace nybble {

struct Mode {
  int size;            // bytes of an element: 1 or 2
  bool first_unsigned; // bytes: which operand is unsigned
  int64_t low;         // of the first operand if its elements are integer - low, else 0
  int64_t flush;       // groups between two widenings
  int64_t per_k;
  int64_t group() const { return 4 / size; } // neighbours in k: a group is always 4 bytes
};

// Throws std::invalid_argument where not even words fit (magnitudes of 2^15 on both sides).
Mode choose_mode(const ConvOperand& first, const ConvOperand& second);

// Words, whatever the bounds; throws as choose_mode.
Mode words_mode(const ConvOperand& first, const ConvOperand& second);

// How many groups may be added up in int32: at least 1.
int64_t groups_within(const Mode& mode, int64_t limit);

// One tile: first operand's panel `a` with kRows rows, second's `b` (or the other way round, then
// `first_is_a` is false).
inline void multiply_tile(const GemmKernels& k, const Mode& m, bool first_is_a, int64_t groups,
                          const uint8_t* a, const uint8_t* b, int32_t* acc) {
  if (m.size == 2)
    k.s16(groups, reinterpret_cast<const int16_t*>(a), reinterpret_cast<const int16_t*>(b), acc);
  else if (m.first_unsigned == first_is_a)
    k.u8s8(groups, a, reinterpret_cast<const int8_t*>(b), m.flush, acc);
  else
    k.s8u8(groups, reinterpret_cast<const int8_t*>(a), b, m.flush, acc);
}

} // namespace nybble
