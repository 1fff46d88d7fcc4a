// micro.hpp's loops for every AArch64: products in 16 bits, sums in 32 (no saturation anywhere, so
// `flush` does not matter).
//
// Groups of bytes: u and s widen to 16 bits, four products of a column are added in 32 bits.
#include <arm_neon.h>

#include <cstring>

#include "gemm/finish.hpp"
#include "gemm/micro.hpp"
#include "gemm/panels.hpp"

namespace nybble {
namespace {

constexpr int kQuads = kColumns / 4; // registers of 4 sums in a row of the tile

struct Tile {
  int32x4_t sum[kRows][kQuads];
  explicit Tile(const int32_t* acc) {
    for (int r = 0; r < kRows; ++r)
      for (int q = 0; q < kQuads; ++q)
        sum[r][q] = vld1q_s32(acc + r * kColumns + 4 * q);
  }
  void store(int32_t* acc) const {
    for (int r = 0; r < kRows; ++r)
      for (int q = 0; q < kQuads; ++q)
        vst1q_s32(acc + r * kColumns + 4 * q, sum[r][q]);
  }
};

// 8 bytes as 16-bit integers.
template <bool Unsigned>
int16x8_t widen(uint8x8_t x) {
  return Unsigned ? vreinterpretq_s16_u16(vmovl_u8(x)) : vmovl_s8(vreinterpret_s8_u8(x));
}

// One group of 4 bytes, twice.
uint8x8_t spread4(const uint8_t* at) {
  uint32_t word;
  std::memcpy(&word, at, 4);
  return vreinterpret_u8_u32(vdup_n_u32(word));
}

// Sums of neighbouring pairs of a's and b's products: pair i of column c is word 2 c + i of x.
int32x4_t pairs(int16x8_t x, int16x8_t y) {
  return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
}

template <bool UnsignedA>
void bytes(int64_t groups, const void* a_panel, const void* b_panel, int32_t* acc) {
  const auto* a = static_cast<const uint8_t*>(a_panel);
  const auto* b = static_cast<const uint8_t*>(b_panel);
  Tile tile(acc);
  for (int64_t g = 0; g < groups; ++g, a += kRows * 4, b += kColumns * 4) {
    int16x8_t x[kRows];
    for (int r = 0; r < kRows; ++r)
      x[r] = widen<UnsignedA>(spread4(a + 4 * r));
    for (int q = 0; q < kQuads; ++q) {
      const uint8x16_t both = vld1q_u8(b + 16 * q);
      const int16x8_t b0 = widen<!UnsignedA>(vget_low_u8(both));
      const int16x8_t b1 = widen<!UnsignedA>(vget_high_u8(both));
      for (int r = 0; r < kRows; ++r)
        tile.sum[r][q] = vaddq_s32(tile.sum[r][q], vpaddq_s32(pairs(x[r], b0), pairs(x[r], b1)));
    }
  }
  tile.store(acc);
}

void u8s8(int64_t groups, const uint8_t* a, const int8_t* b, int64_t, int32_t* acc) {
  bytes<true>(groups, a, b, acc);
}

void s8u8(int64_t groups, const int8_t* a, const uint8_t* b, int64_t, int32_t* acc) {
  bytes<false>(groups, a, b, acc);
}

} // namespace

void s16_neon(int64_t groups, const int16_t* a, const int16_t* b, int32_t* acc) {
  Tile tile(acc);
  for (int64_t g = 0; g < groups; ++g, a += kRows * 2, b += kColumns * 2)
    for (int q = 0; q < kQuads; ++q) {
      const int16x8_t y = vld1q_s16(b + 8 * q);
      for (int r = 0; r < kRows; ++r) {
        int32_t word;
        std::memcpy(&word, a + 2 * r, 4);
        tile.sum[r][q] =
            vaddq_s32(tile.sum[r][q], pairs(vreinterpretq_s16_s32(vdupq_n_s32(word)), y));
      }
    }
  tile.store(acc);
}

const GemmKernels kGemmNeon = {u8s8, s8u8, s16_neon, true, &kPanelsGeneric, &kFinishGeneric};

} // namespace nybble
