// micro.hpp's loops with `sdot`: four products of signed bytes added to a 32-bit sum.
//
// The unsigned operand is shifted to signed, and the shift is made good:
//
//     sum u * s = sum (u - 128) * s + 128 * sum s
//
// The middle may wrap around in 32 bits; the result does not, which the caller has proved.
#include <arm_neon.h>

#include <cstring>

#include "gemm/finish.hpp"
#include "gemm/micro.hpp"
#include "gemm/panels.hpp"

namespace nybble {

void s16_neon(int64_t groups, const int16_t* a, const int16_t* b, int32_t* acc); // micro_neon.cpp

namespace {

constexpr int kQuads = kColumns / 4; // registers of 4 sums in a row of the tile

int8x16_t spread4(const void* at) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return vreinterpretq_s8_u32(vdupq_n_u32(word));
}

template <bool UnsignedA>
void bytes(int64_t groups, const void* a_panel, const void* b_panel, int32_t* acc) {
  const auto* a = static_cast<const uint8_t*>(a_panel);
  const auto* b = static_cast<const uint8_t*>(b_panel);
  const int8x16_t flip = vdupq_n_s8(-128), ones = vdupq_n_s8(1);
  int32x4_t sum[kRows][kQuads];
  int32x4_t shift[UnsignedA ? kQuads : kRows]; // sums of the signed operand
  for (int r = 0; r < kRows; ++r)
    for (int q = 0; q < kQuads; ++q)
      sum[r][q] = vld1q_s32(acc + r * kColumns + 4 * q);
  for (auto& s : shift)
    s = vdupq_n_s32(0);
  for (int64_t g = 0; g < groups; ++g, a += kRows * 4, b += kColumns * 4) {
    int8x16_t y[kQuads];
    for (int q = 0; q < kQuads; ++q) {
      y[q] = vreinterpretq_s8_u8(vld1q_u8(b + 16 * q));
      if (UnsignedA)
        shift[q] = vdotq_s32(shift[q], y[q], ones);
      else
        y[q] = veorq_s8(y[q], flip);
    }
    for (int r = 0; r < kRows; ++r) {
      int8x16_t x = spread4(a + 4 * r);
      if (UnsignedA)
        x = veorq_s8(x, flip);
      else
        shift[r] = vdotq_s32(shift[r], x, ones);
      for (int q = 0; q < kQuads; ++q)
        sum[r][q] = vdotq_s32(sum[r][q], x, y[q]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int q = 0; q < kQuads; ++q)
      vst1q_s32(acc + r * kColumns + 4 * q,
                vaddq_s32(sum[r][q], vshlq_n_s32(shift[UnsignedA ? q : r], 7)));
}

void u8s8(int64_t groups, const uint8_t* a, const int8_t* b, int64_t, int32_t* acc) {
  bytes<true>(groups, a, b, acc);
}

void s8u8(int64_t groups, const int8_t* a, const uint8_t* b, int64_t, int32_t* acc) {
  bytes<false>(groups, a, b, acc);
}

} // namespace

const GemmKernels kGemmDotprod = {u8s8, s8u8, s16_neon, true, &kPanelsGeneric, &kFinishGeneric};

} // namespace nybble
