// The 16 Gemms of a block of tiles.
#include <immintrin.h>

#include <cstring>

#include "winograd/kernels.hpp"

namespace nybble {
namespace {

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

inline __m256i spread(const void* at) {
  int32_t word;
  std::memcpy(&word, at, 4);
  return _mm256_set1_epi32(word);
}

inline void put(int32_t* at, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }

// Three tiles x 16 outputs: six 16-bit sums (ymm0-5), two registers of U (6, 7), one of V (8), one
// of products (9) and six 32-bit sums are all 16 registers, so the block is written out; the
// compiler spills. A block is Flush groups without a loop: decoding instructions would be the limit
// else.
#define ROW(k, first, v, low, high) "vpbroadcastd 4*" #k "(%[" #v "]), %%ymm8\n" first(low, high)
#define GROUP(k, first)                                                                            \
  "vmovdqu 64*" #k "(%[u]), %%ymm6\n"                                                              \
  "vmovdqu 64*" #k "+32(%[u]), %%ymm7\n" ROW(k, first, v0, 0, 1) ROW(k, first, v1, 2, 3)           \
      ROW(k, first, v2, 4, 5)
#define BEGIN(low, high)                                                                           \
  "vpmaddubsw %%ymm6, %%ymm8, %%ymm" #low "\n"                                                     \
  "vpmaddubsw %%ymm7, %%ymm8, %%ymm" #high "\n"
#define ADD(low, high)                                                                             \
  "vpmaddubsw %%ymm6, %%ymm8, %%ymm9\n"                                                            \
  "vpmaddubsw %%ymm7, %%ymm8, %%ymm8\n"                                                            \
  "vpaddw %%ymm9, %%ymm" #low ", %%ymm" #low "\n"                                                  \
  "vpaddw %%ymm8, %%ymm" #high ", %%ymm" #high "\n"
#define WIDEN(s)                                                                                   \
  "vpmaddwd %[ones], %%ymm" #s ", %%ymm" #s "\n"                                                   \
  "vpaddd %%ymm" #s ", %[w" #s "], %[w" #s "]\n"
#define BLOCK(groups)                                                                              \
  asm(groups WIDEN(0) WIDEN(1) WIDEN(2) WIDEN(3) WIDEN(4) WIDEN(5)                                 \
      : [w0] "+x"(w[0]), [w1] "+x"(w[1]), [w2] "+x"(w[2]), [w3] "+x"(w[3]), [w4] "+x"(w[4]),       \
        [w5] "+x"(w[5])                                                                            \
      : [u] "r"(u), [v0] "r"(v0), [v1] "r"(v1), [v2] "r"(v2), [ones] "m"(ones),                    \
        "m"(*reinterpret_cast<const Bytes*>(u)), "m"(*reinterpret_cast<const Bytes*>(v0)),         \
        "m"(*reinterpret_cast<const Bytes*>(v1)), "m"(*reinterpret_cast<const Bytes*>(v2))         \
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9")
#define GROUPS1 GROUP(0, BEGIN)
#define GROUPS2 GROUPS1 GROUP(1, ADD)
#define GROUPS3 GROUPS2 GROUP(2, ADD)
#define GROUPS4 GROUPS3 GROUP(3, ADD)
#define GROUPS6 GROUPS4 GROUP(4, ADD) GROUP(5, ADD)
#define GROUPS8 GROUPS6 GROUP(6, ADD) GROUP(7, ADD)

struct Bytes { // what a block reads: any memory behind the pointers
  uint8_t any[1 << 10];
};

template <int Flush>
inline void block(const int8_t* u, const uint8_t* v0, const uint8_t* v1, const uint8_t* v2,
                  const __m256i& ones, __m256i w[6]) {
  if constexpr (Flush == 1) BLOCK(GROUPS1);
  if constexpr (Flush == 2) BLOCK(GROUPS2);
  if constexpr (Flush == 3) BLOCK(GROUPS3);
  if constexpr (Flush == 4) BLOCK(GROUPS4);
  if constexpr (Flush == 6) BLOCK(GROUPS6);
  if constexpr (Flush == 8) BLOCK(GROUPS8);
}

template <int Flush>
void bytes3(int64_t groups, const uint8_t* v0, int64_t stride, const int8_t* u, int32_t* m) {
  alignas(32) const __m256i ones = _mm256_set1_epi16(1);
  const uint8_t *v1 = v0 + stride, *v2 = v0 + 2 * stride;
  __m256i w[6];
  for (auto& sum : w)
    sum = _mm256_setzero_si256();
  for (; groups >= Flush; groups -= Flush, u += 64 * Flush) {
    block<Flush>(u, v0, v1, v2, ones, w);
    v0 += 4 * Flush, v1 += 4 * Flush, v2 += 4 * Flush;
  }
  if constexpr (Flush > 4)
    for (; groups >= 4; groups -= 4, u += 256, v0 += 16, v1 += 16, v2 += 16)
      block<4>(u, v0, v1, v2, ones, w);
  for (; groups > 0; --groups, u += 64, v0 += 4, v1 += 4, v2 += 4)
    block<1>(u, v0, v1, v2, ones, w);
  for (int i = 0; i < 6; ++i)
    put(m + 8 * i, w[i]);
}

template <int Flush>
void bytes_flushed(int64_t tiles, int64_t groups, const uint8_t* v, int64_t tile_stride,
                   const int8_t* u, int32_t* m) {
  for (int64_t t = 0; t < tiles; t += 3)
    bytes3<Flush>(groups, v + t * tile_stride, tile_stride, u, m + t * kPanel);
}

void bytes(int64_t tiles, int64_t groups, const uint8_t* v, int64_t tile_stride, const int8_t* u,
           int64_t flush, int32_t* m) {
  const auto run = flush >= 8   ? bytes_flushed<8>
                   : flush >= 6 ? bytes_flushed<6>
                   : flush >= 4 ? bytes_flushed<4>
                   : flush >= 3 ? bytes_flushed<3>
                   : flush >= 2 ? bytes_flushed<2>
                                : bytes_flushed<1>;
  run(tiles, groups, v, tile_stride, u, m);
}

void words(int64_t tiles, int64_t groups, const int16_t* v, int64_t tile_stride, const int16_t* u,
           int32_t* m) {
  for (int64_t t = 0; t < tiles; t += 4) {
    const int16_t* at = v + t * tile_stride;
    const int16_t* from = u;
    __m256i s[4][2];
    for (auto& row : s)
      row[0] = row[1] = _mm256_setzero_si256();
    for (int64_t g = 0; g < groups; ++g, at += 2, from += 32) {
      const __m256i a = load(from), b = load(from + 16);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m256i x = spread(at + r * tile_stride);
        s[r][0] = _mm256_add_epi32(s[r][0], _mm256_madd_epi16(x, a));
        s[r][1] = _mm256_add_epi32(s[r][1], _mm256_madd_epi16(x, b));
      }
    }
    for (int r = 0; r < 4; ++r) {
      put(m + (t + r) * kPanel, s[r][0]);
      put(m + (t + r) * kPanel + 8, s[r][1]);
    }
  }
}

void pairs(int64_t count, const int16_t* a_panel, const int16_t* b_panel, int32_t* m) {
  for (int r0 = 0; r0 < kPanel; r0 += 4) {
    const int16_t *x = a_panel + 2 * r0, *y = b_panel;
    __m256i s[4][2];
    for (int r = 0; r < 4; ++r) {
      s[r][0] = load(m + (r0 + r) * kPanel);
      s[r][1] = load(m + (r0 + r) * kPanel + 8);
    }
    for (int64_t g = 0; g < count; ++g, x += 32, y += 32) {
      const __m256i a = load(y), b = load(y + 16);
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        const __m256i w = spread(x + 2 * r);
        s[r][0] = _mm256_add_epi32(s[r][0], _mm256_madd_epi16(w, a));
        s[r][1] = _mm256_add_epi32(s[r][1], _mm256_madd_epi16(w, b));
      }
    }
    for (int r = 0; r < 4; ++r) {
      put(m + (r0 + r) * kPanel, s[r][0]);
      put(m + (r0 + r) * kPanel + 8, s[r][1]);
    }
  }
}

} // namespace

const WinogradProducts kWinogradProductsAvx2 = {bytes, words, pairs};

} // namespace nybble
