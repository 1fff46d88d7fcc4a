// The block Hadamard along one dimension, with the smaller blocks at the end of a line.
#include <algorithm>
#include <cmath>

#include "blocks/blocks.hpp"
#include "core/dispatch.hpp"
#include "core/parallel.hpp"

namespace nybble {
namespace {

constexpr int64_t kTask = 1 << 15; // elements, about

// Blocks of the whole size: of all lines together where nothing lies in between.
template <class Part>
void consecutive(const Turn& t, int64_t whole, int64_t rest, int threads, const Part& part) {
  const int64_t line = t.size * t.inner, lines = t.outer * t.groups;
  const int64_t joined = rest == 0 ? lines : 1, length = t.block * t.inner;
  const int64_t blocks = joined * whole;
  int64_t some = std::max<int64_t>(1, kTask / length);
  if (whole > 0) some = (some + whole - 1) / whole * whole; // signs begin anew with a task
  const int64_t tasks = blocks == 0 ? 0 : (blocks + some - 1) / some;
  parallel_for(threads, lines / joined * tasks, [&](int64_t task) {
    const int64_t first = task % tasks * some;
    part(task / tasks * line + first * length, t.signs, std::min(some, blocks - first), t.block);
  });
}

// Some rows a task where a row is short, else some blocks of one.
void strided(const float* x, const Turn& t, int64_t whole, float* y, int threads) {
  const int64_t line = t.size * t.inner, lines = t.outer * t.groups;
  const float root = float(1.0 / std::sqrt(double(t.block)));
  const int64_t rows = std::max<int64_t>(1, kTask / line);
  const int64_t row_tasks = (lines + rows - 1) / rows;
  const int64_t some = t.inner == 1 ? whole : std::max<int64_t>(1, kTask / (t.block * t.inner));
  const int64_t tasks = (whole + some - 1) / some;
  parallel_for(threads, row_tasks * tasks, [&](int64_t task) {
    const int64_t row = task / tasks * rows, first = task % tasks * some, at = row * line;
    active().blocks->turn_strided(x + at, std::min(rows, lines - row), line, t.block, whole, first,
                                  std::min(first + some, whole), t.inner, t.signs, root, t.back,
                                  y + at);
  });
}

} // namespace

void hadamard(const float* x, const Turn& given, float* y, int threads) {
  const auto kernel = active().blocks->turn;
  Turn t = given;
  const int64_t line = t.size * t.inner, lines = t.outer * t.groups;
  if (line == 0 || lines == 0) return;
  while (t.block > t.size) // no line has such a block
    t.block /= 2;
  const int64_t whole = t.size / t.block, rest = t.size % t.block;
  const auto part = [&](int64_t at, const float* signs, int64_t count, int64_t block) {
    const float root = float(1.0 / std::sqrt(double(block)));
    kernel(x + at, count, block, t.inner, signs, std::max<int64_t>(1, whole), root, t.back, y + at);
  };
  if (t.strided && whole > 0)
    strided(x, t, whole, y, threads);
  else
    consecutive(t, whole, rest, threads, part);
  // What is left of each line, by powers of two.
  for (int64_t l = 0; rest > 0 && l < lines; ++l) {
    int64_t start = whole * t.block;
    for (int64_t block = t.block / 2; block > 0; block /= 2)
      if (rest & block) {
        part(l * line + start * t.inner, t.signs == nullptr ? nullptr : t.signs + start, 1, block);
        start += block;
      }
  }
}

} // namespace nybble
