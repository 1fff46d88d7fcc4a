#include "conv/image.hpp"

#include <algorithm>
#include <cstring>

#include "core/decode.hpp"
#include "core/dispatch.hpp"

namespace nybble {

ElementDecoder::ElementDecoder(const ConvOperand& operand, int size, int64_t low)
    : operand_(operand), size_(size), zero_(uint8_t(-low)) {
  const int entries = operand.bits == 4 ? 16 : 256;
  for (int i = 0; i < entries; ++i) {
    words_[i] = operand.table[i];
    bytes_[i] = uint8_t(operand.table[i] - low);
  }
}

void ElementDecoder::flat(int64_t start, int64_t count, uint8_t* out) const {
  const uint8_t* packed = operand_.packed;
  if (operand_.bits == 4) {
    const DecodeKernels& decode = *active().decode;
    if (size_ == 1)
      decode.bytes(packed, start, count, reinterpret_cast<const int8_t*>(bytes_),
                   reinterpret_cast<int8_t*>(out));
    else
      decode.words(packed, start, count, words_, reinterpret_cast<int16_t*>(out));
  } else if (size_ == 1) {
    for (int64_t i = 0; i < count; ++i)
      out[i] = bytes_[packed[start + i]];
  } else {
    auto* words = reinterpret_cast<int16_t*>(out);
    for (int64_t i = 0; i < count; ++i)
      words[i] = words_[packed[start + i]];
  }
}

void ElementDecoder::zeros(int64_t count, uint8_t* out) const {
  std::memset(out, size_ == 1 ? zero_ : 0, size_t(count * size_));
}

Window input_window(const ConvShape& s) {
  const bool point = s.taps() == 1;
  Window w{s.height, s.width, s.channels, -s.pad_h, -s.pad_w, 0, 0, 1, 1};
  if (point) w.step_y = s.stride_h, w.step_x = s.stride_w;
  w.rows = (s.out_h - 1) * (s.stride_h / w.step_y) + (s.kernel_h - 1) * s.dilation_h + 1;
  w.columns = (s.out_w - 1) * (s.stride_w / w.step_x) + (s.kernel_w - 1) * s.dilation_w + 1;
  return w;
}

void decode_window(const ElementDecoder& decoder, const Window& w, int64_t image, uint8_t* out) {
  const int64_t c = w.channels, line = w.columns * c, size = decoder.size();
  // The columns [first, last) of the window lie in the image.
  const int64_t first = std::min(w.columns, w.x0 >= 0 ? 0 : (-w.x0 + w.step_x - 1) / w.step_x);
  const int64_t last =
      w.x0 >= w.width ? first
                      : std::max(first, std::min(w.columns, (w.width - 1 - w.x0) / w.step_x + 1));
  for (int64_t y = 0; y < w.rows; ++y, out += line * size) {
    const int64_t from = w.y0 + y * w.step_y;
    if (from < 0 || from >= w.height) {
      decoder.zeros(line, out);
      continue;
    }
    decoder.zeros(first * c, out);
    const int64_t start = ((image * w.height + from) * w.width + w.x0) * c;
    if (w.step_x == 1)
      decoder.flat(start + first * c, (last - first) * c, out + first * c * size);
    else
      for (int64_t x = first; x < last; ++x)
        decoder.flat(start + x * w.step_x * c, c, out + x * c * size);
    decoder.zeros((w.columns - last) * c, out + last * c * size);
  }
}

void repeat(int16_t* words, int64_t count, int64_t times) {
  if (times == 1) return;
  for (int64_t i = count - 1; i >= 0;
       --i) { // from the back: nothing is overwritten before it moved
    const int16_t word = words[i];
    std::fill(words + i * times, words + (i + 1) * times, word);
  }
}

} // namespace nybble
