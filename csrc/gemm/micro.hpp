// The register-blocked inner loops of every Gemm: one tile of the product from two packed panels.
//
// A tile has kRows x kColumns int32 sums. The contraction runs in groups of Q neighbouring k, so
// that one instruction multiplies and adds a group: Q = 4 for bytes (vpmaddubsw), Q = 2 for words
// (vpmaddwd). Panels hold the groups in the order in which the loop reads them:
//
//     a[g][r][i]   r < kRows, i < Q         b[g][c][i]   c < kColumns, i < Q
//
// Rows, columns and k beyond the matrix are zeros in the panel.
//
// vpmaddubsw multiplies unsigned by signed bytes and adds two products in 16 bits with saturation.
// `flush` says after how many groups the 16-bit sums must be widened to 32 bits; it must satisfy
//
//     2 * max(u8) * max|s8| * flush <= 32767
//
// VNNI's vpdpbusd and vpdpwssd add to 32 bits and have no such stretches.
//
// The caller proves that the int32 sums fit (or cuts k into pieces and adds those in 64 bits).
#pragma once

#include <cstdint>

namespace nybble {

struct PanelKernels;  // panels.hpp: codes -> panels
struct FinishKernels; // finish.hpp: sums -> floats

constexpr int kRows = 6, kColumns = 16;
constexpr int kTile = kRows * kColumns;
constexpr int kBytesGroup = 4, kWordsGroup = 2;

struct GemmKernels {
  // acc[r * kColumns + c] += sum over g < groups, i < Q of a[g][r][i] * b[g][c][i]
  void (*u8s8)(int64_t groups, const uint8_t* a, const int8_t* b, int64_t flush, int32_t* acc);
  void (*s8u8)(int64_t groups, const int8_t* a, const uint8_t* b, int64_t flush, int32_t* acc);
  void (*s16)(int64_t groups, const int16_t* a, const int16_t* b, int32_t* acc);
  // Whether the 16-bit sums above exist: then `flush` must hold, and where a plan has a choice,
  // bytes whose stretches are too short are not worth it. Otherwise every pair of bytes may be
  // multiplied.
  bool saturates;
  const PanelKernels* panels;
  const FinishKernels* finish;
};

extern const GemmKernels kGemmGeneric;
extern const GemmKernels kGemmAvx2;
extern const GemmKernels kGemmAvx512Vnni;
extern const GemmKernels kGemmNeon;    // every AArch64
extern const GemmKernels kGemmDotprod; // AArch64 with the dot product instructions

} // namespace nybble
