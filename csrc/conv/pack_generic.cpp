#include <cstring>

#include "conv/pack.hpp"

namespace nybble {
namespace {

template <int R>
void gather(const uint8_t* const* rows, int64_t groups, uint8_t* out) {
  for (int64_t g = 0; g < groups; ++g)
    for (int r = 0; r < R; ++r, out += 4)
      std::memcpy(out, rows[r] + 4 * g, 4);
}

template <int R, int Size>
void cross(const uint8_t* const* lines, int64_t offset, int64_t groups, uint8_t* out) {
  constexpr int Q = 4 / Size;
  for (int64_t g = 0; g < groups; ++g, lines += Q)
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < Q; ++i, out += Size)
        std::memcpy(out, lines[i] + offset + r * Size, Size);
}

void start(const int32_t* correction, int32_t* acc) {
  for (int r = 0; r < kRows; ++r)
    std::memcpy(acc + r * kColumns, correction, sizeof(int32_t) * kColumns);
}

void finish(const int32_t* acc, int count, const float* row, const float* column, const float* bias,
            float* const* out) {
  for (int r = 0; r < count; ++r, acc += kColumns)
    for (int c = 0; c < kColumns; ++c) {
      const float value = float(acc[c]) * (row[r] * column[c]);
      out[r][c] = bias == nullptr ? value : value + bias[c];
    }
}

void weigh(const int16_t* from, int64_t pixels, int64_t step, const int64_t* offsets, int64_t pairs,
           const int16_t* weights, int32_t* acc, int64_t acc_step) {
  for (int64_t p = 0; p < pixels; ++p, from += step, acc += acc_step)
    for (int i = 0; i < kColumns; ++i) {
      const int c = kUnpackOrder[i];
      int32_t sum = 0;
      for (int64_t k = 0; k < 2 * pairs; ++k)
        sum += int32_t(from[offsets[k] + c]) * int32_t(weights[(k / 2 * kColumns + i) * 2 + k % 2]);
      acc[c] = sum;
    }
}

void weigh_finish(const int16_t* from, int64_t pixels, int64_t step, const int64_t* offsets,
                  int64_t pairs, const int16_t* weights, const float* scale, const float* bias,
                  float* out, int64_t out_step) {
  int32_t acc[kColumns];
  for (int64_t p = 0; p < pixels; ++p, from += step, out += out_step) {
    weigh(from, 1, step, offsets, pairs, weights, acc, kColumns);
    for (int c = 0; c < kColumns; ++c) {
      const float value = float(acc[c]) * scale[c];
      out[c] = bias == nullptr ? value : value + bias[c];
    }
  }
}

void dot(const int16_t* a, const int16_t* b, int64_t groups, int32_t* acc) {
  for (int64_t g = 0; g < groups; ++g)
    for (int c = 0; c < kColumns; ++c, a += 2, b += 2)
      // Lanes beyond the last channel hold anything: their sums are not used, and may wrap around.
      acc[c] = int32_t(uint32_t(acc[c]) + uint32_t(int32_t(a[0]) * int32_t(b[0])) +
                       uint32_t(int32_t(a[1]) * int32_t(b[1])));
}

void finish_line(const int32_t* acc, int64_t count, const float* scale, const float* bias,
                 float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = float(acc[i]) * scale[i];
    out[i] = bias == nullptr ? value : value + bias[i];
  }
}

} // namespace

const ConvKernels kConvGeneric = {gather<kRows>,
                                  gather<kColumns>,
                                  {cross<kRows, 1>, cross<kRows, 2>},
                                  {cross<kColumns, 1>, cross<kColumns, 2>},
                                  start,
                                  finish,
                                  weigh,
                                  weigh_finish,
                                  dot,
                                  finish_line};

} // namespace nybble
