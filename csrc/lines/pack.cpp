// Both operands of an output gradient in one read: fold, scale, round at random, pack.
#include <algorithm>
#include <cstring>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "core/prefetch.hpp"
#include "lines/lines.hpp"
#include "lines/rounds.hpp"

namespace nybble {
namespace {

// Elements of a task: what was folded and its random bits lie on the stack, in the first cache.
constexpr int64_t kChunk = 1 << 11;
constexpr int64_t kBlock = 64; // of codes

// What elements at .. at + count of a row are multiplied by; the row is a line of `columns`.
Multiplier part(const Factors& f, int64_t row, int64_t column, int64_t columns) {
  if (f.count == 0) return {nullptr, 1.0f};
  if (f.run == 1 && f.count == columns) return {f.values + column, 1.0f};
  return {nullptr, f.values[row * columns / f.run % f.count]};
}

// Whether the factors of an image's pixels are the same, of `pixels` rows of `columns`.
bool lasts(const Factors& f, int64_t columns, int64_t pixels) {
  return f.count <= 1 || (f.run == 1 && f.count == columns) || f.run % (columns * pixels) == 0;
}

// An operand, and its levels where they are whole numbers.
struct Operand : FoldedOperand {
  WholeLevels levels;
  bool whole;

  explicit Operand(const FoldedOperand& of)
      : FoldedOperand(of), levels{}, whole(of.codes != nullptr && whole_levels(rule, &levels)) {}
};

// work(operand, its random bits) for each that is wanted; equal streams are drawn once.
template <class Draw, class Work>
void each_operand(const Operand& first, const Operand& second, Draw drawn, Work work) {
  int32_t random[kChunk];
  if (first.codes != nullptr) {
    drawn(first.stream, random);
    work(first, random);
  }
  if (second.codes == nullptr) return;
  if (first.codes == nullptr || !(first.stream == second.stream)) drawn(second.stream, random);
  work(second, random);
}

struct Chunk {
  const float* x;
  int64_t columns, begin, end;
};

// line(element, row, column, how many) for every part of a row in the chunk.
template <class Line>
void each_line(const Chunk& chunk, const Line& line) {
  for (int64_t at = chunk.begin; at < chunk.end;) {
    const int64_t row = at / chunk.columns, column = at % chunk.columns;
    const int64_t n = std::min(chunk.columns - column, chunk.end - at);
    line(at, row, column, n);
    at += n;
  }
}

void operand(const Chunk& chunk, const Operand& of, const int32_t* random) {
  const Kernels& set = active();
  const int64_t columns = chunk.columns;
  if (of.whole && columns % kBlock == 0)
    return each_line(chunk, [&](int64_t at, int64_t row, int64_t column, int64_t n) {
      set.lines->rounded({chunk.x + at, 1, n, n, part(of.fold, row, column, columns),
                          part(of.inv, row, column, columns), random + (at - chunk.begin),
                          of.codes + at / 2},
                         of.levels);
    });
  float y[kChunk];
  each_line(chunk, [&](int64_t at, int64_t row, int64_t column, int64_t n) {
    set.lines->scaled(chunk.x + at, n, part(of.fold, row, column, columns),
                      part(of.inv, row, column, columns), y + (at - chunk.begin));
  });
  Piece piece{};
  piece.x = y, piece.n = chunk.end - chunk.begin, piece.factor = 1.0f;
  piece.random = random, piece.codes = of.codes + chunk.begin / 2;
  set.quantize->stochastic(piece, of.rule);
}

// A channels-last image in tiles of kTilePixels x kBlock channels, so that a channel's random bits
// are needed for many neighbouring pixels: channels are whole blocks of codes.
constexpr int64_t kTilePixels = 32;
static_assert(kBlock * kTilePixels == kChunk, "buffers of a tile");

struct Tile {
  const float* x;
  int64_t image, first, channel, count; // count pixels from `first` on
};

void tile(const Tile& t, const Operand& of, const Order& order, const int32_t* random) {
  const Kernels& set = active();
  const auto& [x, image, first, channel, count] = t;
  const int64_t c = order.channels, p = order.pixels;
  const int64_t start = image * p + first;
  if (of.whole) {
    const bool one = lasts(of.fold, c, p) && lasts(of.inv, c, p);
    for (int64_t i = 0; i < count; i += one ? count : 1) {
      const int64_t at = (start + i) * c + channel;
      set.lines->rounded({x + at, one ? count : 1, kBlock, c, part(of.fold, start + i, channel, c),
                          part(of.inv, start + i, channel, c), random + i * kBlock,
                          of.codes + at / 2},
                         of.levels);
    }
    return;
  }
  float y[kChunk];
  uint8_t codes[kChunk / 2];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = start + i;
    set.lines->scaled(x + row * c + channel, kBlock, part(of.fold, row, channel, c),
                      part(of.inv, row, channel, c), y + i * kBlock);
  }
  Piece piece{};
  piece.x = y, piece.n = count * kBlock, piece.factor = 1.0f;
  piece.random = random, piece.codes = codes;
  set.quantize->stochastic(piece, of.rule);
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(of.codes + ((start + i) * c + channel) / 2, codes + i * kBlock / 2,
                size_t(kBlock / 2));
}

void tiles(const float* x, int64_t images, const Operand& first, const Operand& second,
           const Order& order, int threads) {
  const int64_t each = (order.pixels + kTilePixels - 1) / kTilePixels;
  parallel_for(threads, images * each, [&](int64_t item) {
    const int64_t image = item / each, pixel = item % each * kTilePixels;
    const int64_t count = std::min(kTilePixels, order.pixels - pixel);
    for (int64_t channel = 0; channel < order.channels; channel += kBlock) {
      const Tile t{x, image, pixel, channel, count};
      for (int64_t k = 0; k < count; ++k)
        ask_for(x + (image * order.pixels + pixel + k) * order.channels + channel, kBlock);
      const int64_t start = (image * order.channels + channel) * order.pixels + pixel;
      each_operand(
          first, second,
          [&](const RandomStream& stream, int32_t* random) {
            active().streams->random24_across(stream, start, order.pixels, kBlock, count, random);
          },
          [&](const Operand& of, const int32_t* random) { tile(t, of, order, random); });
    }
  });
}

} // namespace

void folded_pack(const float* x, int64_t rows, int64_t columns, const FoldedOperand& one,
                 const FoldedOperand& two, const Order& order, int threads) {
  const Operand first(one), second(two);
  const int64_t n = rows * columns;
  if (order.channels == columns && columns % kBlock == 0 && n > 0)
    return tiles(x, rows / order.pixels, first, second, order, threads);
  parallel_for(threads, (n + kChunk - 1) / kChunk, [&](int64_t i) {
    const Chunk chunk{x, columns, i * kChunk, std::min((i + 1) * kChunk, n)};
    ask_for(x + chunk.begin, chunk.end - chunk.begin); // while the random bits are drawn
    each_operand(
        first, second,
        [&](const RandomStream& stream, int32_t* random) {
          draw(stream, order, chunk.begin, chunk.end, random);
        },
        [&](const Operand& of, const int32_t* random) { operand(chunk, of, random); });
  });
}

} // namespace nybble
