// Rows of memory with the scales that belong to them, for the threads.
#include <algorithm>
#include <cstring>
#include <vector>

#include "blocks/blocks.hpp"
#include "core/dispatch.hpp"
#include "core/parallel.hpp"

namespace nybble {
namespace {

constexpr int64_t kTask = 1 << 15; // elements, about

// Calls row(x offset, elements, scale offset, run) for every row of memory. A task has whole groups
// of the first dimension, so that what shares a scale is in one task.
template <class Row>
void each_row(const Grid& grid, int threads, const Row& row) {
  const int last = grid.dims - 1;
  if (grid.elements() == 0) return;
  if (last == 0) { // one row: cut between blocks
    const int64_t n = grid.size[0], run = grid.block[0];
    const int64_t step = std::max(run, kTask / run * run);
    parallel_for(threads, (n + step - 1) / step, [&](int64_t i) {
      const int64_t at = i * step;
      row(at, std::min(step, n - at), at / run, run);
    });
    return;
  }
  int64_t rows = 1, scales = 1; // of one index of the first dimension: rows, and numbers a group
  for (int d = 1; d <= last; ++d) {
    if (d < last) rows *= grid.size[d];
    scales *= (grid.size[d] + grid.block[d] - 1) / grid.block[d];
  }
  const int64_t length = grid.size[last], run = grid.block[last];
  const int64_t group = grid.block[0], groups = (grid.size[0] + group - 1) / group;
  const int64_t together =
      std::max<int64_t>(1, kTask / std::max<int64_t>(1, group * rows * length));
  parallel_for(threads, (groups + together - 1) / together, [&](int64_t task) {
    const int64_t stop = std::min((task + 1) * together * group, grid.size[0]);
    for (int64_t first = task * together * group; first < stop; ++first) {
      int64_t place[kMostDims] = {};
      for (int64_t r = 0; r < rows; ++r) {
        int64_t at = first / group;
        for (int d = 1; d <= last; ++d)
          at = at * ((grid.size[d] + grid.block[d] - 1) / grid.block[d]) + place[d] / grid.block[d];
        row((first * rows + r) * length, length, at, run);
        for (int d = last - 1; d > 0 && ++place[d] == grid.size[d]; --d)
          place[d] = 0;
      }
    }
  });
}

} // namespace

int64_t Grid::elements() const {
  int64_t n = 1;
  for (int d = 0; d < dims; ++d)
    n *= size[d];
  return n;
}

int64_t Grid::scales() const {
  int64_t n = 1;
  for (int d = 0; d < dims; ++d)
    n *= (size[d] + block[d] - 1) / block[d];
  return n;
}

void block_tops(const float* x, const Grid& grid, uint32_t* tops, int threads) {
  const auto kernel = active().blocks->tops;
  std::memset(tops, 0, size_t(grid.scales()) * 4);
  each_row(grid, threads, [&](int64_t at, int64_t n, int64_t scale, int64_t run) {
    kernel(x + at, n, run, tops + scale);
  });
}

void scale_blocks(const float* x, const Grid& grid, const float* scale, float* y, int threads) {
  const auto kernel = active().blocks->scaled;
  each_row(grid, threads, [&](int64_t at, int64_t n, int64_t from, int64_t run) {
    kernel(x + at, n, scale + from, run, y + at);
  });
}

void round_nearest(const float* x, const Grid& grid, const float* inv, const NearestLevels& levels,
                   float* y, int threads) {
  const auto kernel = active().blocks->nearest;
  each_row(grid, threads, [&](int64_t at, int64_t n, int64_t scale, int64_t run) {
    kernel(x + at, n, inv + scale, run, levels, y + at);
  });
}

void round_stochastic(const float* x, const Grid& grid, const float* inv,
                      const StochasticLevels& levels, const RandomStream& stream, int64_t first,
                      const Order& order, float* y, int threads) {
  const auto kernel = active().blocks->stochastic;
  constexpr int64_t kDrawn = 2048;
  each_row(grid, threads, [&](int64_t at, int64_t n, int64_t scale, int64_t run) {
    int32_t random[kDrawn];
    for (int64_t j = 0; j < n;) { // a piece ends where a block does, or lies inside of one
      int64_t piece = std::min(n - j, run < kDrawn ? kDrawn / run * run : kDrawn);
      if (run >= kDrawn) piece = std::min(piece, run - j % run);
      const int64_t begin = first + at + j;
      draw(stream, order, begin, begin + piece, random);
      kernel(x + at + j, piece, inv + scale + j / run, run < kDrawn ? run : piece, levels, random,
             y + at + j);
      j += piece;
    }
  });
}

} // namespace nybble
