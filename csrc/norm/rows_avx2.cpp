// The kernels of rows_generic.cpp; a register is the eight lanes of a row's sum.
#include <immintrin.h>

#include "norm/kernels.hpp"
#include "norm/rows.hpp"

namespace nybble {
namespace {

__m256 load(const float* p) { return _mm256_loadu_ps(p); }

__m256 codes8(const uint8_t* bytes, __m128i shift) {
  const __m256i wide =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(wide, shift), _mm256_set1_epi32(15)));
}

// Eight codes from element i (a multiple of 8) on.
__m256 codes_at(const uint8_t* packed, int64_t i) {
  return codes8(packed + i / 64 * 32 + i % 32, _mm_cvtsi32_si128(i % 64 < 32 ? 0 : 4));
}

// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))
float tree(__m256 v) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

float top_of(__m256 v) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

__m256 clipped(__m256 code) {
  return _mm256_min_ps(_mm256_max_ps(code, _mm256_setzero_ps()), _mm256_set1_ps(15.0f));
}

// 64 codes as floats to 32 bytes; see kernels_avx2.cpp.
void store_codes(const __m256* codes, uint8_t* packed) {
  __m256i pair[4];
  for (int i = 0; i < 4; ++i)
    pair[i] = _mm256_cvttps_epi32(
        _mm256_add_ps(codes[i], _mm256_mul_ps(codes[i + 4], _mm256_set1_ps(16.0f))));
  const __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(pair[0], pair[1]),
                                            _mm256_packus_epi32(pair[2], pair[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed),
                      _mm256_permutevar8x32_epi32(bytes, order));
}

void forward(const float* x, int64_t rows, int64_t width, const float* weight, const float* bias,
             float eps, float* y, uint8_t* packed, float* stats) {
  const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const __m256 eight = _mm256_set1_ps(8.0f);
  for (int64_t r = 0; r < rows; ++r, x += width, y += width, packed += width / 2, stats += 2) {
    __m256 s = _mm256_setzero_ps(), q = s, most = s;
    for (int64_t i = 0; i < width; i += 8)
      s = _mm256_add_ps(s, load(x + i));
    const float mean = tree(s) / float(width);
    const __m256 m = _mm256_set1_ps(mean);
    for (int64_t i = 0; i < width; i += 8) {
      const __m256 d = _mm256_sub_ps(load(x + i), m);
      q = _mm256_add_ps(q, _mm256_mul_ps(d, d));
      most = _mm256_max_ps(_mm256_and_ps(d, positive), most);
    }
    const float top = top_of(most);
    const float variance = tree(q) / float(width) + eps;
    const float rstd = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(variance)));
    const __m256 scale = _mm256_set1_ps(rstd);
    const __m256 inverse = _mm256_set1_ps(top > 0.0f ? 7.5f / top : 0.0f);
    for (int64_t i = 0; i < width; i += 64) {
      __m256 codes[8];
      for (int j = 0; j < 8; ++j) {
        const int64_t at = i + 8 * j;
        const __m256 d = _mm256_sub_ps(load(x + at), m);
        codes[j] = clipped(_mm256_floor_ps(_mm256_add_ps(_mm256_mul_ps(d, inverse), eight)));
        __m256 out = _mm256_mul_ps(d, scale);
        if (weight) out = _mm256_mul_ps(out, load(weight + at));
        if (bias) out = _mm256_add_ps(out, load(bias + at));
        _mm256_storeu_ps(y + at, out);
      }
      store_codes(codes, packed + i / 2);
    }
    stats[0] = top * rstd / 7.5f;
    stats[1] = rstd;
  }
}

void add_to(double* to, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    to[i] += double(from[i]);
}

void backward(const float* dy, const uint8_t* packed, const float* stats, int64_t rows,
              int64_t width, const float* weight, float* dx, double* sum, double* product,
              float* work) {
  float *s = work, *q = work + width, *normal = work + 2 * width;
  const __m256 middle = _mm256_set1_ps(7.5f);
  for (int64_t i = 0; i < 2 * width; ++i)
    work[i] = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    const __m256 step = _mm256_set1_ps(stats[2 * r]), rstd = _mm256_set1_ps(stats[2 * r + 1]);
    __m256 h1 = _mm256_setzero_ps(), h2 = h1;
    for (int64_t i = 0; i < width; i += 8) {
      const __m256 xhat = _mm256_mul_ps(_mm256_sub_ps(codes_at(packed, i), middle), step);
      const __m256 g = load(dy + i);
      _mm256_storeu_ps(normal + i, xhat);
      _mm256_storeu_ps(s + i, _mm256_add_ps(load(s + i), g));
      _mm256_storeu_ps(q + i, _mm256_add_ps(load(q + i), _mm256_mul_ps(g, xhat)));
      const __m256 h = weight ? _mm256_mul_ps(g, load(weight + i)) : g;
      h1 = _mm256_add_ps(h1, h);
      h2 = _mm256_add_ps(h2, _mm256_mul_ps(h, xhat));
    }
    if (dx) {
      const __m256 mean = _mm256_set1_ps(tree(h1) / float(width));
      const __m256 along = _mm256_set1_ps(tree(h2) / float(width));
      for (int64_t i = 0; i < width; i += 8) {
        const __m256 g = load(dy + i);
        const __m256 h = weight ? _mm256_mul_ps(g, load(weight + i)) : g;
        const __m256 back = _mm256_mul_ps(load(normal + i), along);
        _mm256_storeu_ps(dx + i, _mm256_mul_ps(_mm256_sub_ps(_mm256_sub_ps(h, mean), back), rstd));
      }
      dx += width;
    }
    if ((r + 1) % kFlush == 0 || r + 1 == rows) {
      add_to(sum, s, width);
      add_to(product, q, width);
      for (int64_t i = 0; i < 2 * width; ++i)
        work[i] = 0.0f;
    }
    dy += width;
    packed += width / 2;
  }
}

void pack_slopes(const float* slopes, int64_t blocks, uint8_t* packed) {
  const __m256 twelve = _mm256_set1_ps(12.0f), half = _mm256_set1_ps(2.5f);
  for (int64_t b = 0; b < blocks; ++b, slopes += 64, packed += 32) {
    __m256 codes[8];
    for (int j = 0; j < 8; ++j)
      codes[j] = clipped(
          _mm256_floor_ps(_mm256_add_ps(_mm256_mul_ps(load(slopes + 8 * j), twelve), half)));
    store_codes(codes, packed);
  }
}

void slope_grad(const float* dy, const uint8_t* packed, int64_t blocks, float* dx) {
  const __m256 two = _mm256_set1_ps(2.0f), twelfth = _mm256_set1_ps(1.0f / 12.0f);
  for (int64_t e = 0; e < 64 * blocks; e += 8) {
    const __m256 slope = _mm256_mul_ps(_mm256_sub_ps(codes_at(packed, e), two), twelfth);
    _mm256_storeu_ps(dx + e, _mm256_mul_ps(slope, load(dy + e)));
  }
}

} // namespace

const RowKernels kRowsAvx2 = {forward, backward, pack_slopes, slope_grad};

} // namespace nybble
