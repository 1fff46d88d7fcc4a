// Whether a Winograd convolution is exact for operands in given ranges, and in which integers.
//
// Let the image's integers lie in [low, high] (0 inside), |w| <= wmax, |g| <= gmax, and let K be
// the contraction (channels). Then, with R = high - low and L = max(-low, high):
//   V: position (1,1) is a sum of four: [4 low, 4 high]; every other one takes as many terms with
//      each sign: [-2R, 2R]. Both have 4R + 1 values.
//   U: |U| <= a(i) a(j) wmax, a = (2, 3, 3, 2), the absolute row sums of 2G.
//   bytes: V - least fits u8 if 4R <= 255; U fits s8 if 9 wmax <= 127; the integers themselves
//      fit s8. vpmaddubsw's 16-bit sums hold `flush` groups: 8 R |U| flush <= 32767.
//   words: 4 L <= 32767, 9 wmax <= 32767.
//   result: |4 y| <= 4 * 9 * K * L * wmax must be below 2^31; then sums modulo 2^32 are enough.
//   weight gradient: |A dy A^T| <= 4 gmax and |V| <= 4 L fit 16 bits; a tile adds at most
//      4 * 4 * gmax * L to 4 dw, so int32 holds (2^31 - 1) / (16 gmax L) tiles before a spill to
//      int64.
#pragma once

#include <cstdint>

namespace nybble {

enum class Integers { refused = 0, bytes = 1, words = 2 };

struct Range {
  int64_t low, high;
  int64_t limit() const { return -low > high ? -low : high; }
  bool sane() const { return low <= 0 && high >= 0 && low >= -32768 && high <= 32767; }
};

// output and grad_input: `image` is x or g.
inline Integers correlation_plan(Range image, Range weights, int64_t contraction) {
  if (!image.sane() || !weights.sane() || contraction < 1 || contraction > (int64_t(1) << 24))
    return Integers::refused;
  const int64_t limit = image.limit(), w = weights.limit();
  if (limit > 8191 || w > 3640) return Integers::refused;
  if (36 * contraction * limit * w > INT32_MAX) return Integers::refused;
  const int64_t span = image.high - image.low;
  const bool bytes = image.low >= -128 && image.high <= 127 && 4 * span <= 255 && 9 * w <= 127 &&
                     8 * span * 9 * w <= 32767;
  return bytes ? Integers::bytes : Integers::words;
}

// 16-bit sums of `position` that hold, in groups of four bytes.
inline int64_t correlation_flush(Range image, Range weights, int position) {
  static const int rows[4] = {2, 3, 3, 2};
  const int64_t u = rows[position / 4] * rows[position % 4] * weights.limit();
  const int64_t each = 8 * (image.high - image.low) * u;
  return each == 0 ? 4096 : 32767 / each;
}

// The least V of `position`.
inline int64_t least_data(Range image, int position) {
  return position == 5 ? 4 * image.low : 2 * (image.low - image.high);
}

// Tiles whose 4 dw fits int32; less than 2 means refused.
inline int64_t grad_weight_tiles(Range grad, Range image) {
  if (!grad.sane() || !image.sane() || grad.limit() > 8191 || image.limit() > 8191) return 0;
  const int64_t each = 16 * grad.limit() * image.limit();
  return each == 0 ? INT32_MAX : INT32_MAX / each;
}

} // namespace nybble
