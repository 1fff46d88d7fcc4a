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

void finish(const int32_t* acc, int count, const float* row, const float* column, const float* bias,
            float* const* out) {
  for (int r = 0; r < count; ++r, acc += kColumns)
    for (int c = 0; c < kColumns; ++c) {
      const float value = float(acc[c]) * (row[r] * column[c]);
      out[r][c] = bias == nullptr ? value : value + bias[c];
    }
}

} // namespace

const ConvKernels kConvGeneric = {gather<kRows>,
                                  gather<kColumns>,
                                  {cross<kRows, 1>, cross<kRows, 2>},
                                  {cross<kColumns, 1>, cross<kColumns, 2>},
                                  finish};

} // namespace nybble
