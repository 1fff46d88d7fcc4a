// Maxima and column sums of a folded matrix, in one read.
//
// The tree of quantizers/sums.py over a column of M elements: element m lies in lane m mod 1024 of
// row m div 1024; rows are added first, as a binary tree that carries an odd last one over, then
// lanes l and l + s for s = 512, 256, .. 1. So the elements of one residue modulo a power of two
// are a subtree of their own, and the whole is a recursion over residues whose leaves are rows of
// the matrix. Subtrees of 8 rows are added in registers. Lanes and rows that do not exist hold +0
// in the definition; they are left out here, which changes nothing but the sign of a zero, and a
// zero sum is +0.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "lines/lines.hpp"
#include "quantize/fit.hpp"

namespace nybble {
namespace {

constexpr int64_t kTreeLanes = 1024;
// Columns of a task: the sums of a few levels stay in the caches, and a row's part is long enough
// for the memory to run ahead.
constexpr int64_t kLeastWidth = 256, kMostWidth = 2048;

// Levels of the tree, at most: ten halvings of the lanes, and those of the rows.
int64_t levels_of(int64_t rows) {
  int64_t levels = 12;
  for (int64_t r = rows / kTreeLanes; r > 0; r /= 2)
    ++levels;
  return levels;
}

class Columns {
public:
  Columns(const FoldedMatrix& m, int64_t first, int64_t count, uint32_t* row_tops, float* memory)
      : m_(m), kernels_(*active().lines), first_(first), count_(count), row_tops_(row_tops),
        memory_(memory) {}

  void run() {
    std::memset(m_.column_tops + first_, 0, size_t(count_) * 4);
    if (m_.rows > 0) residue(0, 1, 0);
    if (m_.sums == nullptr) return;
    if (m_.rows == 0) std::memset(memory_, 0, size_t(count_) * sizeof(float));
    for (int64_t j = 0; j < count_; ++j)
      m_.sums[first_ + j] = memory_[j] + 0.0f;
  }

private:
  static bool together(int64_t count) { return count <= 8 && (count & (count - 1)) == 0; }

  float* level(int depth) { return memory_ + depth * count_; }
  int64_t members(int64_t lane, int64_t step) const { return (m_.rows - lane + step - 1) / step; }

  // The subtree of elements lane, lane + step, ..; its sums go to level `depth`.
  void residue(int64_t lane, int64_t step, int depth) {
    const int64_t count = members(lane, step);
    if (step == kTreeLanes) return rows(lane, 0, count, depth);
    if (together(count)) {
      gathered_ = 0;
      gather(lane, step);
      return finish(depth);
    }
    const bool both = lane + step < std::min(m_.rows, kTreeLanes);
    if (!both) return residue(lane, 2 * step, depth);
    residue(lane, 2 * step, depth);
    residue(lane + step, 2 * step, depth + 1);
    join(depth);
  }

  // Rows [from, until) of a lane.
  void rows(int64_t lane, int64_t from, int64_t until, int depth) {
    const int64_t count = until - from;
    if (together(count)) {
      gathered_ = 0;
      for (int64_t r = from; r < until; ++r)
        members_[gathered_++] = lane + r * kTreeLanes;
      return finish(depth);
    }
    int64_t half = 1;
    while (2 * half < count)
      half *= 2;
    rows(lane, from, from + half, depth);
    rows(lane, from + half, until, depth + 1);
    join(depth);
  }

  // The elements of a subtree, in the order in which neighbours are added.
  void gather(int64_t lane, int64_t step) {
    if (step == kTreeLanes) {
      for (int64_t r = 0; r < members(lane, step); ++r)
        members_[gathered_++] = lane + r * kTreeLanes;
      return;
    }
    gather(lane, 2 * step);
    if (lane + step < std::min(m_.rows, kTreeLanes)) gather(lane + step, 2 * step);
  }

  void finish(int depth) {
    FoldedRows p;
    p.count = gathered_, p.n = count_;
    p.along = m_.along == nullptr ? nullptr : m_.along + first_;
    p.column_tops = m_.column_tops + first_;
    p.sums = m_.sums == nullptr ? nullptr : level(depth);
    for (int i = 0; i < gathered_; ++i) {
      const int64_t row = members_[i];
      p.row[i] = m_.x + row * m_.columns + first_;
      p.across[i] = m_.across == nullptr ? 1.0f : m_.across[row];
      p.row_top[i] = row_tops_ + row;
    }
    kernels_.folded(p);
  }

  void join(int depth) {
    if (m_.sums != nullptr) kernels_.add(level(depth), level(depth + 1), count_);
  }

  const FoldedMatrix& m_;
  const LineKernels& kernels_;
  int64_t first_, count_;
  uint32_t* row_tops_;
  float* memory_;
  int64_t members_[8];
  int gathered_ = 0;
};

} // namespace

void folded_statistics(const FoldedMatrix& m, int threads) {
  const int64_t share = (m.columns / std::max(threads, 1) + 15) / 16 * 16;
  const int64_t width = std::clamp(share, kLeastWidth, kMostWidth);
  const int64_t tasks = (m.columns + width - 1) / width;
  std::fill(m.row_tops, m.row_tops + m.rows, 0u);
  // Every task has row maxima of its own; the largest of them do not depend on the tasks.
  const bool shared = threads <= 1 || tasks <= 1;
  std::vector<uint32_t> tops(shared ? 0 : size_t(tasks * m.rows), 0u);
  const int64_t floats = m.sums == nullptr ? 0 : levels_of(m.rows) * width;
  std::vector<float> memory(size_t(shared ? floats : tasks * floats));
  parallel_for(threads, tasks, [&](int64_t task) {
    const int64_t first = task * width;
    uint32_t* mine = shared ? m.row_tops : tops.data() + task * m.rows;
    float* own = memory.data() + (shared ? 0 : task * floats);
    Columns(m, first, std::min(width, m.columns - first), mine, own).run();
  });
  for (int64_t task = 0; !shared && task < tasks; ++task)
    for (int64_t row = 0; row < m.rows; ++row)
      m.row_tops[row] = std::max(m.row_tops[row], tops[size_t(task * m.rows + row)]);
}

void line_scales(const float* tops, int64_t n, float levels, float* scale, float* inv) {
  for (int64_t i = 0; i < n; ++i) {
    scale[i] = scale_of(tops[i], levels);
    inv[i] = 1.0f / scale[i];
  }
}

} // namespace nybble
