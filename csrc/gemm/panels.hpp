// Packed codes -> the panels that the micro kernels read (micro.hpp).
//
// An operand is a matrix of free x contraction elements (free: rows of a, columns of b), stored
// with the contraction contiguous (x, w of x w^T) or strided (a transposed operand). Both kinds go
// the same two steps: a few hundred codes are decoded through the table into scratch that stays in
// the first cache, then moved in registers. A group of a panel is 4 bytes for bytes and words
// alike, so the contiguous kind is a transposition of 32-bit words ("gather"), and the other one
// interleaves 4 rows of bytes or 2 rows of words ("weave").
//
// Rows of codes may start anywhere in a block of 64: whole blocks are decoded and the row read
// from its place in them.
#pragma once

#include <cstdint>

#include "gemm/plan.hpp"

namespace nybble {

struct PanelKernels {
  // panel[g * width + r] = 32-bit word g of rows[r], for g < groups, r < count <= width; zero for
  // r >= count. width: kRows or kColumns. May write 8 bytes beyond the last group.
  void (*gather)(const uint8_t* const* rows, int count, int width, int64_t groups, uint32_t* panel);
  // Word c of group g, c < width, is made of element c of rows[g * Q ...] + offset, Q = 4 / size;
  // size: bytes of an element. Reads whole 16-byte words of a row; may write 8 bytes beyond the
  // end.
  void (*weave)(const uint8_t* const* rows, int64_t offset, int size, int width, int64_t groups,
                uint32_t* panel);
  // sums[c] = the sum of all signed bytes of column c, c < width
  void (*sums)(const uint32_t* panel, int width, int64_t groups, int32_t* sums);
};

extern const PanelKernels kPanelsGeneric;
extern const PanelKernels kPanelsAvx2;

// An operand as the caller has it.
struct Matrix {
  const uint8_t* packed;
  int bits; // 4: 64-blocks; 8: one byte a code
  const int16_t* table;
  Bounds bounds;
  int64_t free;    // rows of a, columns of b
  bool contiguous; // along the contraction
};

// The same with a table of what the panels hold: integers, shifted and clamped to their bounds, so
// that the proofs of plan.hpp hold for every byte pattern.
class Source {
public:
  Source(const Matrix& matrix, int64_t contraction, int64_t shift, int size);

  // Bytes of scratch that `pack` needs.
  static int64_t scratch_bytes();

  // Panels of `width` for free in [f0, f0 + free) and k in [k0, k0 + count); panel p starts at
  // out + p * stride. `stride` (in words) is at least width * groups + 2.
  void pack(int64_t f0, int64_t free, int64_t k0, int64_t count, int width, uint8_t* scratch,
            uint32_t* out, int64_t stride) const;

private:
  const uint8_t* decode(int64_t start, int64_t count, uint8_t* scratch) const;
  void fetch(int64_t start, int64_t count) const;
  void gather(int64_t f0, int64_t free, int64_t k0, int64_t count, int width, uint8_t* scratch,
              uint32_t* out, int64_t stride) const;
  void weave(int64_t f0, int64_t free, int64_t k0, int64_t count, int width, uint8_t* scratch,
             uint32_t* out, int64_t stride) const;

  Matrix matrix_;
  int64_t contraction_;
  int size_;
  bool plus_; // 8-bit bytes: table[code] = code + constant modulo 256
  int8_t bytes_[256];
  int16_t words_[256];
};

} // namespace nybble
