// The inner loops of the exact integer Winograd convolutions of 3x3 kernels, F(2x2, 3x3).
//
// With a factor of 2 in the kernel's transform every matrix is integer, and 4 x the convolution
// comes out exactly:
//
//         | 1  0 -1  0 |          | 2  0  0 |
//    B^T= | 0  1  1  0 |     2G = | 1  1  1 |     A^T = | 1  1  1  0 |
//         | 0 -1  1  0 |          | 1 -1  1 |           | 0  1 -1 -1 |
//         | 0  1  0 -1 |          | 0  0  2 |
//
//    V = B^T d B      d: a 4x4 patch of the padded image, patches 2 apart ("tiles")
//    U = 2G w (2G)^T  w: a 3x3 kernel
//    M = sum over channels of U V, for each of the 16 positions on its own: 16 small Gemms
//    Y = (A^T M A) / 4, 2x2 results; the division is exact
//
// The input gradient is the same with the kernel turned by 180 degrees, which exchanges the rows
// (and columns) 0 and 3 of U. The weight gradient is F(3x3, 2x2): M = sum over tiles of
// (A dy A^T) V, and (2G)^T M 2G = 4 dw.
//
// Sums of M may wrap modulo 2^32 on the way; only 4 x the result has to fit (plan.hpp).
// `position` counts 4 * row + column. All strides are in elements.
#pragma once

#include <cstdint>

namespace nybble {

constexpr int kPositions = 16;
// Output channels of a panel and of a block of M.
constexpr int kPanel = 16;
// Tiles of one call of a product: a multiple of this.
constexpr int kTileGroup = 12;
// V rows and decoded rows are read and written in whole registers: so many bytes beyond the last
// channel belong to the caller's buffer. They do not change a result.
constexpr int kSlackBytes = 64;
// Groups (of 4 bytes or 2 words) of a panel of U are allocated in multiples of this.
constexpr int kGroupStep = 8;

// Order of the 16 channels inside a pair panel: what two in-lane unpacks leave.
constexpr int kPairOrder[kPanel] = {0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15};

struct WinogradData {
  // V of `tiles` neighbouring tiles: rows[i] + (2 * tile + j) * channels is pixel (i, j) of a
  // patch.
  //   v[position * position_stride + tile * tile_stride + channel] = V + offset
  // (bytes: `sums` for position (1,1), which is a sum of four, `differences` for the others) for
  // channels rounded up to 32 (bytes, modulo 256) or 16 (words); those beyond `channels` are
  // unspecified.
  void (*bytes)(const int8_t* const* rows, int64_t tiles, int64_t channels, uint8_t sums,
                uint8_t differences, int64_t tile_stride, int64_t position_stride, uint8_t* v);
  void (*words)(const int16_t* const* rows, int64_t tiles, int64_t channels, int64_t tile_stride,
                int64_t position_stride, int16_t* v);

  // For the weight gradient, two tiles side by side in one group:
  //   out[position * position_stride + (channel / 16) * panel_stride + pair * 32 + 2 * slot + half]
  // where kPairOrder[slot] == channel % 16 and tile == 2 * pair + half.
  // pairs_data: V of the image (rows[0..3]); pairs_grad: A dy A^T of the gradient (rows[0..1]).
  void (*pairs_data)(const int16_t* const* rows, int64_t pairs, int64_t channels,
                     int64_t panel_stride, int64_t position_stride, int16_t* out);
  void (*pairs_grad)(const int16_t* const* rows, int64_t pairs, int64_t channels,
                     int64_t panel_stride, int64_t position_stride, int16_t* out);
};

extern const WinogradData kWinogradDataGeneric;
extern const WinogradData kWinogradDataAvx2;

struct WinogradWeights {
  // The panel of U for `outputs` (1 to 16) kernels [3][3][channels], one after the other:
  //   u[position * position_stride + (channel / q) * 16 * q + output * q + channel % q]
  // with zeros beyond `outputs` and `channels`, up to a multiple of kGroupStep groups.
  void (*bytes)(const int8_t* w, int64_t outputs, int64_t channels, int64_t position_stride,
                int8_t* u);
  void (*words)(const int16_t* w, int64_t outputs, int64_t channels, int64_t position_stride,
                int16_t* u);
  // The same for the turned kernels: w is [kernels][3][3][channels], the contraction runs over
  // `kernels`, and the panel holds the channels first .. first + 15.
  void (*turned_bytes)(const int8_t* w, int64_t kernels, int64_t channels, int64_t first,
                       int64_t position_stride, int8_t* u);
  void (*turned_words)(const int16_t* w, int64_t kernels, int64_t channels, int64_t first,
                       int64_t position_stride, int16_t* u);
  // sums[o] = sum of column o of one panel of bytes.
  void (*sums)(const int8_t* u, int64_t groups, int32_t* sums);
};

extern const WinogradWeights kWinogradWeightsGeneric;
extern const WinogradWeights kWinogradWeightsAvx2;

struct WinogradProducts {
  // m[tile * 16 + o] = sum over g < groups, i < q of v[tile * tile_stride + q g + i] u[g][o][i]
  // tiles: a multiple of kTileGroup. bytes: 16-bit sums are widened every `flush` groups,
  // 2 * max v * max |u| * flush <= 32767.
  void (*bytes)(int64_t tiles, int64_t groups, const uint8_t* v, int64_t tile_stride,
                const int8_t* u, int64_t flush, int32_t* m);
  void (*words)(int64_t tiles, int64_t groups, const int16_t* v, int64_t tile_stride,
                const int16_t* u, int32_t* m);
  // m[r][c] += sum over pairs, half of a[pair][r][half] b[pair][c][half], 16 x 16
  void (*pairs)(int64_t pairs, const int16_t* a, const int16_t* b, int32_t* m);
};

extern const WinogradProducts kWinogradProductsGeneric;
extern const WinogradProducts kWinogradProductsAvx2;

// How the 2x2 results of a run of tiles become floats.
struct WinogradEpilogue {
  const int32_t* add; // [4][16], added to 4 x the result
  const float* scale; // [16]
  const float* bias;  // [16] or null
  int64_t rows;       // of the 2: how many lie inside the image
  int64_t columns;    // of the 2 * tiles
  int64_t channels;   // of the 16
  int64_t row_stride, pixel_stride;
  bool stream; // past the caches: the results are too large to stay there
};

struct WinogradResults {
  // out[y * row_stride + x * pixel_stride + o] = float(Y) * scale[o] (+ bias[o])
  void (*output)(const int32_t* m, int64_t position_stride, int64_t tiles,
                 const WinogradEpilogue& epilogue, float* out);
  // Makes streamed results visible to other threads; called by the thread that wrote them.
  void (*flush)();
  // sums[o][k][c] = dw of output o, tap k = 3 * kh + kw, channel c, from m[position][slot][slot]
  void (*grad_weight)(const int32_t* m, int64_t position_stride, int32_t* sums);
};

extern const WinogradResults kWinogradResultsGeneric;
extern const WinogradResults kWinogradResultsAvx2;

struct WinogradKernels {
  const WinogradData* data;
  const WinogradWeights* weights;
  const WinogradProducts* products;
  const WinogradResults* results;
};

extern const WinogradKernels kWinogradGeneric;
extern const WinogradKernels kWinogradAvx2;
extern const WinogradKernels kWinogradAvx512Vnni;

} // namespace nybble
