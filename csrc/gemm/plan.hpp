// Which micro kernel multiplies two operands, chosen by the bounds of their integers.
//
// Bytes: one operand is shifted to unsigned, u = integer - low, the other stays signed, s:
//
//     sum a * b = sum u * s + low * sum s             2 * max(u) * max|s| * flush <= 32767
//
// and the second term, the compensation, is nothing where low = 0 (UINT4). Both assignments are
// tried; fewer than kLeastFlush groups between two widenings are not worth it. Words: no shift.
// Kernels without 16-bit sums (micro.hpp: saturates) take bytes wherever the bytes hold them, so
// the plan depends on the instruction set; the result does not.
//
// `cut` is the longest contraction whose sums, shifted or not, and whose compensation fit in int32;
// longer ones are cut, and the pieces are added in int64.
#pragma once

#include <cstdint>

#include "gemm/micro.hpp"

namespace nybble {

constexpr int64_t kLeastFlush = 4;

enum class Multiply { U8S8, S8U8, S16 };

struct Bounds {
  int64_t low, high; // of the integers; low <= 0 <= high
};

struct Plan {
  Multiply kind;
  int64_t flush;            // groups, for bytes
  int64_t shift_a, shift_b; // panels hold integer - shift
  int64_t cut;              // elements of the contraction, at least one group

  int size() const { return kind == Multiply::S16 ? 2 : 1; } // bytes of an element in a panel
  int group() const { return 4 / size(); }
};

// `limit`: the largest sum, 2^31 - 1 except in tests. Throws std::invalid_argument for integers
// beyond +-32767, which no kernel takes.
Plan make_plan(Bounds a, Bounds b, int64_t limit);

} // namespace nybble
