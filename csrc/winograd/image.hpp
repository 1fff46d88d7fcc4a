// Rows of a zero-padded image, decoded on demand from its packed codes.
//
// A tile row needs 4 (or 2) padded rows; the next one, 2 further down, shares half of them, so a
// window keeps what it decoded last. Images are [N, H, W, C].
#pragma once

#include <cstdint>
#include <cstring>

#include "core/decode.hpp"
#include "winograd/kernels.hpp"
#include "winograd/scratch.hpp"

namespace nybble {

template <class T>
struct Image {
  const uint8_t* packed;
  T table[16];
  int64_t n, height, width, channels;
  int64_t pad_h, pad_w;

  // Columns first .. first + count - 1 of padded row `row` of image `index`.
  void read(const DecodeKernels& decode, int64_t index, int64_t row, int64_t first, int64_t count,
            T* out) const {
    const int64_t h = row - pad_h;
    // Source columns begin .. end - 1 lie inside; what is left and right of them is zero.
    int64_t begin = first - pad_w, end = begin + count;
    const int64_t origin = begin;
    begin = begin < 0 ? 0 : begin;
    end = end > width ? width : end;
    if (h < 0 || h >= height || begin >= end) {
      std::memset(out, 0, size_t(count * channels) * sizeof(T));
      return;
    }
    const int64_t left = (begin - origin) * channels, inside = (end - begin) * channels;
    std::memset(out, 0, size_t(left) * sizeof(T));
    run(decode, ((index * height + h) * width + begin) * channels, inside, out + left);
    std::memset(out + left + inside, 0, size_t(count * channels - left - inside) * sizeof(T));
  }

private:
  void run(const DecodeKernels& decode, int64_t start, int64_t count, T* out) const {
    if constexpr (sizeof(T) == 1)
      decode.bytes(packed, start, count, table, out);
    else
      decode.words(packed, start, count, table, out);
  }
};

template <class T>
Image<T> make_image(const uint8_t* packed, const int16_t* table) {
  Image<T> image{};
  image.packed = packed;
  for (int i = 0; i < 16; ++i)
    image.table[i] = T(table[i]);
  return image;
}

// Elements of one decoded row of `columns` pixels, with the slack that kernels may read.
template <class T>
int64_t row_elements(int64_t columns, int64_t channels) {
  return columns * channels + kSlackBytes / int64_t(sizeof(T));
}

// The `Rows` padded rows below each other that one tile row reads, 2 apart from tile row to tile
// row. `memory` holds Rows * row_elements.
template <class T, int Rows>
class TileWindow {
public:
  TileWindow(const Image<T>& image, const DecodeKernels& decode, int64_t first, int64_t columns,
             T* memory)
      : image_(image), decode_(decode), first_(first), columns_(columns) {
    for (int i = 0; i < Rows; ++i)
      rows_[i] = memory + i * row_elements<T>(columns, image.channels);
  }

  const T* const* at(int64_t index, int64_t tile_row) {
    int kept = 0;
    if (Rows > 2 && index == index_ && tile_row == tile_row_ + 1) {
      kept = Rows - 2;
      for (int i = 0; i < kept; ++i) {
        T* const reused = rows_[i];
        rows_[i] = rows_[i + 2];
        rows_[i + 2] = reused;
      }
    }
    for (int i = kept; i < Rows; ++i)
      image_.read(decode_, index, 2 * tile_row + i, first_, columns_, rows_[i]);
    index_ = index, tile_row_ = tile_row;
    return rows_;
  }

private:
  const Image<T>& image_;
  const DecodeKernels& decode_;
  int64_t first_, columns_;
  int64_t index_ = -1, tile_row_ = -1;
  T* rows_[Rows];
};

} // namespace nybble
