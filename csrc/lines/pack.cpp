// Both operands of an output gradient in one read: fold, scale, round at random, pack.
#include <algorithm>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "lines/lines.hpp"

namespace nybble {
namespace {

// Elements of a task: what was folded and its random bits lie on the stack, in the first cache.
constexpr int64_t kChunk = 1 << 11;

// What elements at .. at + count of a row are multiplied by; the row is a line of `columns`.
Multiplier part(const Factors& f, int64_t row, int64_t column, int64_t columns) {
  if (f.count == 0) return {nullptr, 1.0f};
  if (f.run == 1 && f.count == columns) return {f.values + column, 1.0f};
  return {nullptr, f.values[row * columns / f.run % f.count]};
}

struct Chunk {
  const float* x;
  int64_t columns, begin, end;
};

void operand(const Chunk& chunk, const FoldedOperand& of, const Order& order) {
  const Kernels& set = active();
  float y[kChunk];
  int32_t random[kChunk];
  draw(of.stream, order, chunk.begin, chunk.end, random);
  for (int64_t at = chunk.begin; at < chunk.end;) {
    const int64_t row = at / chunk.columns, column = at % chunk.columns;
    const int64_t n = std::min(chunk.columns - column, chunk.end - at);
    set.lines->scaled(chunk.x + at, n, part(of.fold, row, column, chunk.columns),
                      part(of.inv, row, column, chunk.columns), y + (at - chunk.begin));
    at += n;
  }
  Piece piece{};
  piece.x = y, piece.n = chunk.end - chunk.begin, piece.factor = 1.0f;
  piece.random = random, piece.codes = of.codes + chunk.begin / 2;
  set.quantize->stochastic(piece, of.rule);
}

} // namespace

void folded_pack(const float* x, int64_t rows, int64_t columns, const FoldedOperand& first,
                 const FoldedOperand& second, const Order& order, int threads) {
  const int64_t n = rows * columns;
  parallel_for(threads, (n + kChunk - 1) / kChunk, [&](int64_t i) {
    const Chunk chunk{x, columns, i * kChunk, std::min((i + 1) * kChunk, n)};
    if (first.codes != nullptr) operand(chunk, first, order);
    if (second.codes != nullptr) operand(chunk, second, order);
  });
}

} // namespace nybble
