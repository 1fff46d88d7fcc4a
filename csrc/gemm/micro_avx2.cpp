// The loops of micro.hpp with 12 accumulators in registers: 6 rows x 2 registers of 8 columns.
//
// Written in assembly, since compilers spill accumulators here and halve the speed. A step of a
// row broadcasts 4 bytes of a, multiplies them with both registers of b, and adds:
//
//     ymm0..11 sums     ymm12, 13 b     ymm14, 15 broadcast and products
//
// The first group of a stretch multiplies straight into the sums, which saves clearing them.
#include <immintrin.h>

#include <cstring>

#include "gemm/finish.hpp"
#include "gemm/micro.hpp"
#include "gemm/panels.hpp"

namespace nybble {
namespace {

static_assert(kRows == 6 && kColumns == 16, "the registers below");

#if defined(__GNUC__)

// d = the products of the broadcast in ymm14 with b.
#define UNSIGNED_A(b, d) "vpmaddubsw %%ymm" b ", %%ymm14, %%ymm" d "\n\t"
#define UNSIGNED_B(b, d) "vpmaddubsw %%ymm14, %%ymm" b ", %%ymm" d "\n\t"
#define WORDS(b, d) "vpmaddwd %%ymm" b ", %%ymm14, %%ymm" d "\n\t"

#define SPREAD(g, r) "vpbroadcastd 24*" g "+4*" r "(%[a]), %%ymm14\n\t"
#define LOAD_B(g)                                                                                  \
  "vmovdqu 64*" g "(%[b]), %%ymm12\n\t"                                                            \
  "vmovdqu 64*" g "+32(%[b]), %%ymm13\n\t"

#define FIRST_ROW(MUL, r, c0, c1) SPREAD("0", r) MUL("12", c0) MUL("13", c1)
#define FIRST(MUL)                                                                                 \
  LOAD_B("0")                                                                                      \
  FIRST_ROW(MUL, "0", "0", "1")                                                                    \
  FIRST_ROW(MUL, "1", "2", "3")                                                                    \
  FIRST_ROW(MUL, "2", "4", "5")                                                                    \
  FIRST_ROW(MUL, "3", "6", "7") FIRST_ROW(MUL, "4", "8", "9") FIRST_ROW(MUL, "5", "10", "11")

#define ROW(MUL, ADD, g, r, c0, c1)                                                                \
  SPREAD(g, r)                                                                                     \
  MUL("12", "15")                                                                                  \
  MUL("13", "14")                                                                                  \
  ADD " %%ymm15, %%ymm" c0 ", %%ymm" c0 "\n\t" ADD " %%ymm14, %%ymm" c1 ", %%ymm" c1 "\n\t"
#define GROUP(MUL, ADD, g)                                                                         \
  LOAD_B(g)                                                                                        \
  ROW(MUL, ADD, g, "0", "0", "1")                                                                  \
  ROW(MUL, ADD, g, "1", "2", "3")                                                                  \
  ROW(MUL, ADD, g, "2", "4", "5")                                                                  \
  ROW(MUL, ADD, g, "3", "6", "7") ROW(MUL, ADD, g, "4", "8", "9") ROW(MUL, ADD, g, "5", "10", "11")
#define ADVANCE(g) "add $24*" g ", %[a]\n\tadd $64*" g ", %[b]\n\t"

// All groups of a stretch, at least one.
#define STRETCH(MUL, ADD)                                                                          \
  FIRST(MUL)                                                                                       \
  ADVANCE("1")                                                                                     \
  "test %[fours], %[fours]\n\t"                                                                    \
  "jz 2f\n\t"                                                                                      \
  ".p2align 5\n"                                                                                   \
  "1:\n\t" GROUP(MUL, ADD, "0") GROUP(MUL, ADD, "1") GROUP(MUL, ADD, "2") GROUP(MUL, ADD, "3")     \
      ADVANCE("4") "dec %[fours]\n\t"                                                              \
                   "jnz 1b\n"                                                                      \
                   "2:\n\t"                                                                        \
                   "test %[rest], %[rest]\n\t"                                                     \
                   "jz 4f\n"                                                                       \
                   "3:\n\t" GROUP(MUL, ADD, "0") ADVANCE("1") "dec %[rest]\n\t"                    \
                                                              "jnz 3b\n"                           \
                                                              "4:\n\t"

#define ADD_TO(at, c)                                                                              \
  "vpaddd " at "(%[acc]), %%ymm" c ", %%ymm" c "\n\t"                                              \
  "vmovdqu %%ymm" c ", " at "(%[acc])\n\t"
#define WIDEN(at, c) "vpmaddwd %%ymm12, %%ymm" c ", %%ymm" c "\n\t" ADD_TO(at, c)
#define EACH_SUM(DO)                                                                               \
  DO("0", "0")                                                                                     \
  DO("32", "1")                                                                                    \
  DO("64", "2")                                                                                    \
  DO("96", "3")                                                                                    \
  DO("128", "4")                                                                                   \
  DO("160", "5")                                                                                   \
  DO("192", "6") DO("224", "7") DO("256", "8") DO("288", "9") DO("320", "10") DO("352", "11")
#define ONES "vpcmpeqw %%ymm12, %%ymm12, %%ymm12\n\tvpsrlw $15, %%ymm12, %%ymm12\n\t"

#define RUN(MUL, ADD, END)                                                                         \
  __asm__ volatile(STRETCH(MUL, ADD) END "vzeroupper\n\t"                                          \
                   : [a] "+r"(a), [b] "+r"(b), [fours] "+r"(fours), [rest] "+r"(rest)              \
                   : [acc] "r"(acc)                                                                \
                   : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6",       \
                     "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")

template <bool UnsignedA>
void bytes(int64_t groups, const void* a, const void* b, int64_t flush, int32_t* acc) {
  while (groups > 0) {
    const int64_t n = groups < flush ? groups : flush;
    int64_t fours = (n - 1) / 4, rest = (n - 1) % 4;
    if (UnsignedA)
      RUN(UNSIGNED_A, "vpaddw", ONES EACH_SUM(WIDEN));
    else
      RUN(UNSIGNED_B, "vpaddw", ONES EACH_SUM(WIDEN));
    groups -= n;
  }
}

void s16(int64_t groups, const int16_t* a, const int16_t* b, int32_t* acc) {
  if (groups <= 0) return;
  int64_t fours = (groups - 1) / 4, rest = (groups - 1) % 4;
  RUN(WORDS, "vpaddd", EACH_SUM(ADD_TO));
}

#else // a compiler without this assembly: the same sums

inline __m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }

inline __m256i spread(const void* at) {
  int32_t word;
  std::memcpy(&word, at, 4);
  return _mm256_set1_epi32(word);
}

void add_to(int32_t* acc, __m256i sum) {
  auto* to = reinterpret_cast<__m256i*>(acc);
  _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), sum));
}

template <bool UnsignedA>
void bytes(int64_t groups, const void* a_panel, const void* b_panel, int64_t flush, int32_t* acc) {
  const auto* a = static_cast<const uint8_t*>(a_panel);
  const auto* b = static_cast<const uint8_t*>(b_panel);
  const __m256i ones = _mm256_set1_epi16(1);
  while (groups > 0) {
    const int64_t n = groups < flush ? groups : flush;
    __m256i sum[kRows][2];
    for (auto& row : sum)
      row[0] = row[1] = _mm256_setzero_si256();
    for (int64_t g = 0; g < n; ++g, a += kRows * 4, b += kColumns * 4) {
      const __m256i b0 = load(b), b1 = load(b + 32);
      for (int r = 0; r < kRows; ++r) {
        const __m256i x = spread(a + 4 * r);
        sum[r][0] = _mm256_add_epi16(sum[r][0], UnsignedA ? _mm256_maddubs_epi16(x, b0)
                                                          : _mm256_maddubs_epi16(b0, x));
        sum[r][1] = _mm256_add_epi16(sum[r][1], UnsignedA ? _mm256_maddubs_epi16(x, b1)
                                                          : _mm256_maddubs_epi16(b1, x));
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int h = 0; h < 2; ++h)
        add_to(acc + r * kColumns + 8 * h, _mm256_madd_epi16(sum[r][h], ones));
    groups -= n;
  }
}

void s16(int64_t groups, const int16_t* a, const int16_t* b, int32_t* acc) {
  __m256i sum[kRows][2];
  for (auto& row : sum)
    row[0] = row[1] = _mm256_setzero_si256();
  for (int64_t g = 0; g < groups; ++g, a += kRows * 2, b += kColumns * 2) {
    const __m256i b0 = load(b), b1 = load(b + 16);
    for (int r = 0; r < kRows; ++r) {
      const __m256i x = spread(a + 2 * r);
      sum[r][0] = _mm256_add_epi32(sum[r][0], _mm256_madd_epi16(x, b0));
      sum[r][1] = _mm256_add_epi32(sum[r][1], _mm256_madd_epi16(x, b1));
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int h = 0; h < 2; ++h)
      add_to(acc + r * kColumns + 8 * h, sum[r][h]);
}

#endif

void u8s8(int64_t groups, const uint8_t* a, const int8_t* b, int64_t flush, int32_t* acc) {
  bytes<true>(groups, a, b, flush, acc);
}

void s8u8(int64_t groups, const int8_t* a, const uint8_t* b, int64_t flush, int32_t* acc) {
  bytes<false>(groups, a, b, flush, acc);
}

} // namespace

const GemmKernels kGemmAvx2 = {u8s8, s8u8, s16, true, &kPanelsAvx2, &kFinishAvx2};

} // namespace nybble
