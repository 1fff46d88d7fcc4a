// Products whose rows are gathered from images: the output of a convolution, and its grad_input.
//
//     result[pixel][column] = sum over runs and their elements of window[pixel + run] *
//     b[k][column]
//
// A pixel is a point of a grid over the window; a run is a stretch of neighbouring elements at a
// fixed distance from it (a tap's channels, or a whole line of taps). Both operands see a run
// padded to whole groups, b with zeros, so whatever follows a run in memory does not count. The
// im2col matrix exists only as the panels of a block of pixels, in a worker's cache.
#pragma once

#include <cstdint>
#include <vector>

#include "conv/buffer.hpp"
#include "conv/image.hpp"
#include "conv/mode.hpp"
#include "conv/shape.hpp"

namespace nybble {

struct Gathered {
  struct Run {
    int64_t offset; // bytes from the pixel
    int64_t groups;
  };
  int64_t grid_h = 0, grid_w = 0, step_h = 0, step_w = 0; // step: bytes between pixels
  std::vector<Run> runs;
  int64_t groups = 0; // of all runs

  int64_t columns = 0;
  Buffer panels;                   // [column panel][groups][kColumns][4 bytes]
  std::vector<int64_t> correction; // per column, whole panels; 0 where the mode has no low
  std::vector<int32_t> start;      // the same, where the sums fit
  std::vector<float> scale, bias;  // per column, whole panels; bias may be empty

  int64_t out_offset = 0, out_h = 0, out_w = 0; // floats: of the first pixel, between pixels

  int64_t pixels() const { return grid_h * grid_w; }
  int64_t column_panels() const { return blocks_of(columns, kColumns); }
  int64_t panel_bytes() const { return groups * kColumns * 4; }
  // Room for `columns` columns, their scales from column `first` of the result on.
  void set_columns(int64_t count, const ConvScales& scales, int64_t first);
};

// out[image * out_image + ...] for all products, which share images, window and mode; scales.row is
// one number, or one for each image.
void multiply_gathered(std::vector<Gathered>& products, const ElementDecoder& decoder,
                       const Window& window, int64_t images, const Mode& mode,
                       const ConvScales& scales, ConvRun run, float* out, int64_t out_image);

} // namespace nybble
