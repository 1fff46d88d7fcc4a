#include <immintrin.h>

#include "recurrent/gate_loops.hpp"
#include "recurrent/gates.hpp"

namespace nybble {
namespace {

struct Eight {
  static constexpr int kLanes = 8;
  __m256 v;
  static Eight load(const float* at) { return {_mm256_loadu_ps(at)}; }
  static Eight set(float x) { return {_mm256_set1_ps(x)}; }
  void store(float* at) const { _mm256_storeu_ps(at, v); }
};
inline Eight operator+(Eight a, Eight b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Eight operator-(Eight a, Eight b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Eight operator*(Eight a, Eight b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Eight operator/(Eight a, Eight b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Eight min(Eight a, Eight b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Eight max(Eight a, Eight b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Eight positive(Eight x, Eight y) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_GT_OQ), y.v)};
}

} // namespace

const GateKernels kGatesAvx2 = {Loops<Eight>::lstm,  Loops<Eight>::lstm_grad,
                                Loops<Eight>::gru,   Loops<Eight>::gru_grad,
                                Loops<Eight>::plain, Loops<Eight>::plain_grad};

} // namespace nybble
