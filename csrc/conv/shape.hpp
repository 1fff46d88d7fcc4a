// The sizes of a convolution and what its two operands are: everything that the Python side says.
//
//     y[n, oh, ow, o] = sum over kh, kw, c of x[n, oh*sh - ph + kh*dh, ow*sw - pw + kw*dw, c]
//                                             * w[o, kh, kw, c]
//
// Images are NHWC, weights OHWI, both in C order. A 1-d convolution is the case H = kh = 1.
#pragma once

#include <cstdint>

namespace nybble {

// Packed codes and their table; integers lie in [low, high], and low <= 0 <= high.
struct ConvOperand {
  const uint8_t* packed;
  int bits;             // 4: blocks of 64 codes, 8: bytes
  const int16_t* table; // 16 or 256 entries
  int64_t low, high;
};

struct ConvShape {
  int64_t images, height, width, channels;           // of the input
  int64_t out_channels, kernel_h, kernel_w;          // of the weight
  int64_t stride_h, stride_w, pad_h, pad_w;          //
  int64_t dilation_h, dilation_w, groups;            //
  int64_t out_h, out_w, group_inputs, group_outputs; // derived

  int64_t taps() const { return kernel_h * kernel_w; }
  int64_t pixels() const { return out_h * out_w; } // of one output image
  bool depthwise() const { return group_inputs == 1 && groups > 1; }
};

// Scales of the result, absent ones being 1: `row` has 1 element, or one for each image (of the
// weight's gradient: for each output channel), `column` 1 or the number of result columns. bias:
// per column, or null.
struct ConvScales {
  const float* row;
  int64_t rows;
  const float* column;
  int64_t columns;
  const float* bias;
  float row_at(int64_t i) const { return row[rows == 1 ? 0 : i]; }
  float column_at(int64_t i) const { return column[columns == 1 ? 0 : i]; }
};

struct ConvRun {
  int threads;
  int64_t limit; // the largest magnitude that an int32 sum may reach (smaller in tests)
};

// The three Gemms; out is NHWC (the weight's gradient: OHWI).
void conv_output(const ConvShape& s, const ConvOperand& x, const ConvOperand& w,
                 const ConvScales& scales, ConvRun run, float* out);
void conv_grad_input(const ConvShape& s, const ConvOperand& g, const ConvOperand& w,
                     const ConvScales& scales, ConvRun run, float* out);
void conv_grad_weight(const ConvShape& s, const ConvOperand& g, const ConvOperand& x,
                      const ConvScales& scales, ConvRun run, float* out);

} // namespace nybble
