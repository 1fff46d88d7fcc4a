// The control variate of a convolution: ops/reference/taps.py and control_variate.py natively.
#pragma once

#include <cstdint>

namespace nybble {

// What rounding took from a gradient, summed over the images: with z = x * factor of its image,
//     error[j] = (z[0][j] + z[1][j] + ..) - float(sums[j]) * scale[channel of j]
// every + and product one float32 rounding, image after image; `sums` are those of the integers.
struct RoundedImages {
  const float* x; // [images, plane], a plane being [pixels, channels], or [channels, pixels]
  int64_t images, channels, pixels;
  bool channels_last;
  const float* factors; // of each image, or null: ones
  const int64_t* sums;
  const float* scale; // of each channel

  int64_t plane() const { return channels * pixels; }
};

void image_error(const RoundedImages& of, float* error, int threads);

// Output positions [first, last) that a tap sees.
struct Seen {
  int64_t first, last;
};

// sums[o, i, j] = sum of plane[o, y, x] over what taps i of the height and j of the width see, as
// differences of running sums in float64, the height first, rounded once.
struct TapPlane {
  const float* plane; // as in RoundedImages
  int64_t channels, height, width;
  bool channels_last;
  const Seen *down, *across;
  int64_t taps_down, taps_across;
};

void tap_sums(const TapPlane& of, float* sums, int threads);

} // namespace nybble
