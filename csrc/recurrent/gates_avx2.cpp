#include <immintrin.h>

#include "core/lanes_avx2.hpp"
#include "recurrent/gate_loops.hpp"
#include "recurrent/gates.hpp"

namespace nybble {
namespace {

inline Eight positive(Eight x, Eight y) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_GT_OQ), y.v)};
}

} // namespace

const GateKernels kGatesAvx2 = {Loops<Eight>::lstm,  Loops<Eight>::lstm_grad,
                                Loops<Eight>::gru,   Loops<Eight>::gru_grad,
                                Loops<Eight>::plain, Loops<Eight>::plain_grad};

} // namespace nybble
