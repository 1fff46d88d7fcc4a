// micro.hpp's loops with `vpdpbusd` and `vpdpwssd`: a group of products is added to a 32-bit sum by
// one instruction, without saturation, so `flush` has no meaning here.
//
// A row of the tile is one register of 16 sums. Six rows alone would wait for each other's sums (an
// addition takes 4 or 5 cycles, and some processors begin two in each), so even and odd groups have
// sums of their own, which are added at the end; 32 bits may wrap on the way, as micro.hpp's caller
// has proved that the result does not.
#include <immintrin.h>

#include <cstring>

#include "gemm/finish.hpp"
#include "gemm/micro.hpp"
#include "gemm/panels.hpp"

namespace nybble {
namespace {

static_assert(kColumns == 16, "a row of the tile is one register");

inline __m512i spread(const void* at) {
  int32_t word;
  std::memcpy(&word, at, 4);
  return _mm512_set1_epi32(word);
}

// `add(sum, x, y)`: x from a, y from b.
template <class Add>
inline void tile(int64_t groups, const void* a_panel, const void* b_panel, int32_t* acc, Add add) {
  const auto* a = static_cast<const uint8_t*>(a_panel);
  const auto* b = static_cast<const uint8_t*>(b_panel);
  constexpr int kA = 4 * kRows, kB = 4 * kColumns; // bytes of a group
  __m512i even[kRows], odd[kRows];
  for (int r = 0; r < kRows; ++r) {
    even[r] = _mm512_loadu_si512(acc + r * kColumns);
    odd[r] = _mm512_setzero_si512();
  }
  for (; groups >= 2; groups -= 2, a += 2 * kA, b += 2 * kB) {
    const __m512i y0 = _mm512_loadu_si512(b), y1 = _mm512_loadu_si512(b + kB);
    for (int r = 0; r < kRows; ++r)
      even[r] = add(even[r], spread(a + 4 * r), y0);
    for (int r = 0; r < kRows; ++r)
      odd[r] = add(odd[r], spread(a + kA + 4 * r), y1);
  }
  if (groups > 0) {
    const __m512i y = _mm512_loadu_si512(b);
    for (int r = 0; r < kRows; ++r)
      even[r] = add(even[r], spread(a + 4 * r), y);
  }
  for (int r = 0; r < kRows; ++r)
    _mm512_storeu_si512(acc + r * kColumns, _mm512_add_epi32(even[r], odd[r]));
}

void u8s8(int64_t groups, const uint8_t* a, const int8_t* b, int64_t, int32_t* acc) {
  tile(groups, a, b, acc,
       [](__m512i sum, __m512i x, __m512i y) { return _mm512_dpbusd_epi32(sum, x, y); });
}

void s8u8(int64_t groups, const int8_t* a, const uint8_t* b, int64_t, int32_t* acc) {
  tile(groups, a, b, acc,
       [](__m512i sum, __m512i x, __m512i y) { return _mm512_dpbusd_epi32(sum, y, x); });
}

void s16(int64_t groups, const int16_t* a, const int16_t* b, int32_t* acc) {
  tile(groups, a, b, acc,
       [](__m512i sum, __m512i x, __m512i y) { return _mm512_dpwssd_epi32(sum, y, x); });
}

} // namespace

const GemmKernels kGemmAvx512Vnni = {u8s8, s8u8, s16, false, &kPanelsAvx2, &kFinishAvx2};

} // namespace nybble
