// The block Hadamard along one dimension, with the smaller blocks at the end of a line.
#include <algorithm>
#include <cmath>

#include "blocks/blocks.hpp"
#include "core/dispatch.hpp"
#include "core/parallel.hpp"

namespace nybble {
namespace {

constexpr int64_t kTask = 1 << 15; // elements, about

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
  // Blocks of the whole size: of all lines together where nothing lies in between.
  const int64_t joined = rest == 0 ? lines : 1, length = t.block * t.inner;
  const int64_t blocks = joined * whole;
  int64_t some = std::max<int64_t>(1, kTask / length);
  if (whole > 0) some = (some + whole - 1) / whole * whole; // signs begin anew with a task
  const int64_t tasks = blocks == 0 ? 0 : (blocks + some - 1) / some;
  parallel_for(threads, lines / joined * tasks, [&](int64_t task) {
    const int64_t first = task % tasks * some;
    part(task / tasks * line + first * length, t.signs, std::min(some, blocks - first), t.block);
  });
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
