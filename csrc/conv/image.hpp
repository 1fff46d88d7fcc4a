// Packed codes -> elements (bytes or words), flat or as padded images.
//
// A window of an image is what the taps can reach:
//
//     window[y][x] = image[y0 + y * step_y][x0 + x * step_x], or 0 outside of the image
//
// An element is integer - low (bytes of the unsigned operand; the padded element is then -low) or
// the integer itself.
#pragma once

#include <cstdint>

#include "conv/shape.hpp"

namespace nybble {

class ElementDecoder {
public:
  ElementDecoder(const ConvOperand& operand, int size, int64_t low);
  // Elements [start, start + count) of the flat array; bytes or words by `size`.
  void flat(int64_t start, int64_t count, uint8_t* out) const;
  void zeros(int64_t count, uint8_t* out) const;
  int size() const { return size_; }

private:
  ConvOperand operand_;
  int size_;
  int16_t words_[256];
  uint8_t bytes_[256];
  uint8_t zero_;
};

struct Window {
  int64_t height, width, channels; // of the image
  int64_t y0, x0, rows, columns, step_y, step_x;
  int64_t elements() const { return rows * columns * channels; }
};

// What the taps of output pixels read. A 1 x 1 kernel reads no pixel but those that its stride
// meets: then the steps are the strides.
Window input_window(const ConvShape& s);

// Image number `image` through the window.
void decode_window(const ElementDecoder& decoder, const Window& w, int64_t image, uint8_t* out);

// Each of `count` words, `times` in a row, in place.
void repeat(int16_t* words, int64_t count, int64_t times);

} // namespace nybble
