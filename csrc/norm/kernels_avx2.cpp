// The kernels of kernels_generic.cpp, eight floats at a time.
//
// A block of 64 codes: registers 0..3 hold elements 0..31, 4..7 elements 32..63. `low + 16 * high`
// puts two codes together while they are still floats (exact), so a byte costs one conversion for
// two codes.
#include <immintrin.h>

#include "norm/kernels.hpp"
#include "norm/rows.hpp"

namespace nybble {
namespace {

__m256 load(const float* p) { return _mm256_loadu_ps(p); }

// Eight codes of a half block as floats; `shift` is 0 for the low nibbles, 4 for the high ones.
__m256 codes8(const uint8_t* bytes, __m128i shift) {
  const __m256i wide =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(wide, shift), _mm256_set1_epi32(15)));
}

// dy where code >= first, else 0
__m256 masked(__m256 dy, __m256 code, __m256 first) {
  return _mm256_and_ps(_mm256_cmp_ps(code, first, _CMP_GE_OQ), dy);
}

void flush8(double* to, __m256 from) {
  _mm256_storeu_pd(
      to, _mm256_add_pd(_mm256_loadu_pd(to), _mm256_cvtps_pd(_mm256_castps256_ps128(from))));
  _mm256_storeu_pd(to + 4, _mm256_add_pd(_mm256_loadu_pd(to + 4),
                                         _mm256_cvtps_pd(_mm256_extractf128_ps(from, 1))));
}

// Rows [0, pixels) of N registers of channels: at most kFlush rows.
template <int N>
void moments_rows(const float* x, const float* shift, int64_t pixels, int64_t channels, double* sum,
                  double* square) {
  __m256 s[N], q[N], m[N];
  for (int i = 0; i < N; ++i) {
    s[i] = q[i] = _mm256_setzero_ps();
    m[i] = load(shift + 8 * i);
  }
  for (int64_t p = 0; p < pixels; ++p, x += channels)
    for (int i = 0; i < N; ++i) {
      const __m256 d = _mm256_sub_ps(load(x + 8 * i), m[i]);
      s[i] = _mm256_add_ps(s[i], d);
      q[i] = _mm256_add_ps(q[i], _mm256_mul_ps(d, d));
    }
  for (int i = 0; i < N; ++i) {
    flush8(sum + 8 * i, s[i]);
    flush8(square + 8 * i, q[i]);
  }
}

void moments(const float* x, const float* shift, int64_t pixels, int64_t channels, double* sum,
             double* square, float* work) {
  (void)work;
  for (int64_t p = 0; p < pixels; p += kFlush) {
    const int64_t rows = pixels - p < kFlush ? pixels - p : kFlush;
    const float* from = x + p * channels;
    int64_t c = 0;
    for (; c + 32 <= channels; c += 32)
      moments_rows<4>(from + c, shift + c, rows, channels, sum + c, square + c);
    for (; c + 8 <= channels; c += 8)
      moments_rows<1>(from + c, shift + c, rows, channels, sum + c, square + c);
    for (; c < channels; ++c) {
      float s = 0.0f, q = 0.0f;
      for (int64_t r = 0; r < rows; ++r) {
        const float d = from[r * channels + c] - shift[c];
        s = s + d;
        q = q + d * d;
      }
      sum[c] += double(s);
      square[c] += double(q);
    }
  }
}

template <bool kRelu>
__m256 normalise8(const float* x, const float* v, int64_t period, float* y) {
  const __m256 zero = _mm256_setzero_ps(), top = _mm256_set1_ps(15.0f);
  const __m256 in = load(x);
  const __m256 out = _mm256_add_ps(_mm256_mul_ps(in, load(v)), load(v + period));
  const __m256 placed = _mm256_mul_ps(in, load(v + 2 * period));
  const __m256 code = _mm256_floor_ps(_mm256_add_ps(placed, load(v + 3 * period)));
  if (!kRelu) {
    _mm256_storeu_ps(y, out);
    return _mm256_min_ps(_mm256_max_ps(code, zero), top);
  }
  const __m256 first = load(v + 4 * period);
  const __m256 above = _mm256_min_ps(_mm256_max_ps(code, first), top);
  const __m256 last = _mm256_sub_ps(first, _mm256_set1_ps(1.0f));
  const __m256 below = _mm256_max_ps(_mm256_min_ps(code, last), zero);
  _mm256_storeu_ps(y, _mm256_max_ps(zero, out));
  return _mm256_blendv_ps(below, above, _mm256_cmp_ps(out, zero, _CMP_GT_OQ));
}

template <bool kRelu>
void normalise_blocks(const float* x, int64_t blocks, const float* values, int64_t period,
                      int64_t phase, float* y, uint8_t* packed) {
  const __m256 sixteen = _mm256_set1_ps(16.0f);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int64_t b = 0; b < blocks; ++b, x += 64, y += 64, packed += 32) {
    const float* v = values + phase;
    __m256i pair[4];
    for (int i = 0; i < 4; ++i) {
      const __m256 low = normalise8<kRelu>(x + 8 * i, v + 8 * i, period, y + 8 * i);
      const __m256 high = normalise8<kRelu>(x + 32 + 8 * i, v + 32 + 8 * i, period, y + 32 + 8 * i);
      pair[i] = _mm256_cvttps_epi32(_mm256_add_ps(low, _mm256_mul_ps(high, sixteen)));
    }
    const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(pair[0], pair[1]),
                                              _mm256_packus_epi32(pair[2], pair[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed),
                        _mm256_permutevar8x32_epi32(bytes, order));
    phase = phase + 64 == period ? 0 : phase + 64;
  }
}

void normalise(const float* x, int64_t blocks, const float* values, int64_t period, int64_t phase,
               bool relu, float* y, uint8_t* packed) {
  if (relu)
    normalise_blocks<true>(x, blocks, values, period, phase, y, packed);
  else
    normalise_blocks<false>(x, blocks, values, period, phase, y, packed);
}

// N registers of channels from channel c on, of at most kFlush rows. Eight channels lie in one half
// of a block, since channels is a multiple of 8; 32 do where it is a multiple of 32.
template <int N>
void sums_rows(const float* dy, const uint8_t* packed, const float* first, int64_t row, int64_t end,
               int64_t c, int64_t channels, double* sum, double* product) {
  __m256 s[N], q[N], f[N];
  for (int i = 0; i < N; ++i) {
    s[i] = q[i] = _mm256_setzero_ps();
    f[i] = load(first + c + 8 * i);
  }
  for (; row < end; ++row) {
    const int64_t e = row * channels + c, inside = e % 64;
    const uint8_t* bytes = packed + e / 64 * 32 + inside % 32;
    const __m128i shift = _mm_cvtsi32_si128(inside < 32 ? 0 : 4);
    for (int i = 0; i < N; ++i) {
      const __m256 code = codes8(bytes + 8 * i, shift);
      const __m256 g = masked(load(dy + e + 8 * i), code, f[i]);
      s[i] = _mm256_add_ps(s[i], g);
      q[i] = _mm256_add_ps(q[i], _mm256_mul_ps(g, code));
    }
  }
  for (int i = 0; i < N; ++i) {
    flush8(sum + c + 8 * i, s[i]);
    flush8(product + c + 8 * i, q[i]);
  }
}

void grad_sums(const float* dy, const uint8_t* packed, const float* first, int64_t from, int64_t to,
               int64_t channels, double* sum, double* product, float* work) {
  if (channels % 8 != 0) {
    kNormGeneric.grad_sums(dy, packed, first, from, to, channels, sum, product, work);
    return;
  }
  for (int64_t p = from; p < to; p += kFlush) {
    const int64_t end = to - p < kFlush ? to : p + kFlush;
    int64_t c = 0;
    if (channels % 32 == 0)
      for (; c < channels; c += 32)
        sums_rows<4>(dy, packed, first, p, end, c, channels, sum, product);
    for (; c < channels; c += 8)
      sums_rows<1>(dy, packed, first, p, end, c, channels, sum, product);
  }
}

void grad_input(const float* dy, const uint8_t* packed, int64_t blocks, const float* values,
                int64_t period, int64_t phase, float* dx) {
  const __m128i shifts[2] = {_mm_cvtsi32_si128(0), _mm_cvtsi32_si128(4)};
  for (int64_t b = 0; b < blocks; ++b, dy += 64, dx += 64, packed += 32) {
    for (int i = 0; i < 8; ++i) {
      const float* v = values + phase + 8 * i;
      const __m256 code = codes8(packed + 8 * (i % 4), shifts[i / 4]);
      const __m256 g = masked(load(dy + 8 * i), code, load(v + 3 * period));
      const __m256 along = _mm256_mul_ps(load(v), g);
      const __m256 back = _mm256_mul_ps(load(v + period), code);
      _mm256_storeu_ps(dx + 8 * i, _mm256_add_ps(_mm256_add_ps(along, back), load(v + 2 * period)));
    }
    phase = phase + 64 == period ? 0 : phase + 64;
  }
}

void relu(const float* x, int64_t blocks, float top, float* y, uint8_t* bits) {
  const __m256 zero = _mm256_setzero_ps(), most = _mm256_set1_ps(top);
  for (int64_t b = 0; b < 8 * blocks; ++b, x += 8, y += 8) {
    const __m256 in = load(x);
    const __m256 over = _mm256_cmp_ps(in, most, _CMP_GE_OQ);
    const __m256 positive = _mm256_cmp_ps(in, zero, _CMP_NLE_UQ);
    bits[b] = uint8_t(_mm256_movemask_ps(_mm256_andnot_ps(over, positive)));
    _mm256_storeu_ps(y, _mm256_blendv_ps(_mm256_max_ps(zero, in), most, over));
  }
}

void relu_grad(const float* dy, const uint8_t* bits, int64_t blocks, float* dx) {
  const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int64_t b = 0; b < 8 * blocks; ++b, dy += 8, dx += 8) {
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(bits[b]), each);
    const __m256 mask = _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, each));
    _mm256_storeu_ps(dx, _mm256_and_ps(mask, load(dy)));
  }
}

} // namespace

const NormKernels kNormAvx2 = {moments, normalise, grad_sums, grad_input,
                               relu,    relu_grad, &kRowsAvx2};

} // namespace nybble
