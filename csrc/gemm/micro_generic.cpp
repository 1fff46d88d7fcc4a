#include "gemm/finish.hpp"
#include "gemm/micro.hpp"
#include "gemm/panels.hpp"

namespace nybble {
namespace {

template <int Q, class A, class B>
void tile(int64_t groups, const A* a, const B* b, int32_t* acc) {
  for (int64_t g = 0; g < groups; ++g, a += kRows * Q, b += kColumns * Q)
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kColumns; ++c)
        for (int i = 0; i < Q; ++i)
          acc[r * kColumns + c] += int32_t(a[r * Q + i]) * int32_t(b[c * Q + i]);
}

void u8s8(int64_t groups, const uint8_t* a, const int8_t* b, int64_t, int32_t* acc) {
  tile<kBytesGroup>(groups, a, b, acc);
}

void s8u8(int64_t groups, const int8_t* a, const uint8_t* b, int64_t, int32_t* acc) {
  tile<kBytesGroup>(groups, a, b, acc);
}

void s16(int64_t groups, const int16_t* a, const int16_t* b, int32_t* acc) {
  tile<kWordsGroup>(groups, a, b, acc);
}

} // namespace

const GemmKernels kGemmGeneric = {u8s8, s8u8, s16, true, &kPanelsGeneric, &kFinishGeneric};

} // namespace nybble
