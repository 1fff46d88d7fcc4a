// The better of two scales for every row: quantizers/scales/best.py in the same float32 operations.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "lines/lines.hpp"
#include "quantize/fit.hpp"
#include "quantize/sums.hpp"

namespace nybble {
namespace {

constexpr int kMostLevels = 40;
constexpr int64_t kTask = 1 << 14; // elements of a task, about
constexpr int64_t kPieces = 8;     // of the tasks, a thread: threads of unequal speed share them

// A tree sum over rows of lanes that come one after the other: subtrees of equal size are added as
// soon as both are there, the rest from the last to the first.
class Tree {
public:
  // `memory`: `room(n)` numbers.
  Tree(const SumKernels& kernels, float* memory, int64_t n)
      : kernels_(kernels), memory_(memory), n_(n) {
    while (lanes_ < kLanes && lanes_ < n)
      lanes_ *= 2;
  }

  // Rows wait in sizes that are powers of two and all differ, and two more can come before a merge.
  static int64_t room(int64_t n) {
    int64_t levels = 2;
    for (int64_t rows = (n + kLanes - 1) / kLanes; rows > 0; rows /= 2)
      ++levels;
    return levels * kLanes;
  }

  float* next() { return memory_ + count_ * kLanes; }

  // The row written to `next`, of which n lanes hold numbers. The halves of a row that is alone are
  // those of as many lanes as it needs.
  void push(int64_t n) {
    std::fill(next() + n, next() + lanes_, 0.0f);
    sizes_[count_++] = 1;
    while (count_ > 1 && sizes_[count_ - 1] == sizes_[count_ - 2])
      merge();
  }

  float sum() {
    while (count_ > 1)
      merge();
    kernels_.fold(memory_, n_);
    count_ = 0;
    return memory_[0] + 0.0f;
  }

private:
  void merge() {
    float* left = memory_ + (count_ - 2) * kLanes;
    kernels_.add(left, left + kLanes, left);
    sizes_[count_ - 2] += sizes_[count_ - 1];
    --count_;
  }

  const SumKernels& kernels_;
  float* const memory_;
  const int64_t n_; // elements of a line, at least one
  int64_t lanes_ = 1;
  int64_t sizes_[kMostLevels];
  int count_ = 0;
};

float number(uint32_t bits) {
  if (bits > 0x7f800000u) return std::numeric_limits<float>::quiet_NaN();
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

struct Row {
  const Kernels& set;
  const BestOfTwo& rule;
  const LevelForm form;
  float* const memory; // of two trees

  void operator()(const float* x, int64_t n, float* scale, float* inv) {
    Tree first(*set.sums, memory, n), second(*set.sums, memory + Tree::room(n), n);
    uint32_t top = 0;
    for (int64_t at = 0; at < n; at += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, n - at);
      top = std::max(top, set.lines->squares(x + at, count, first.next()));
      first.push(count);
    }
    const float mean = first.sum() / float(n);
    const float root = std::sqrt(mean) * rule.rms;
    const float scales[2] = {top == 0 ? rule.empty : scale_of(number(top), rule.top),
                             mean == 0.0f ? 1.0f : root};
    const float inverses[2] = {1.0f / scales[0], 1.0f / scales[1]};
    for (int64_t at = 0; at < n; at += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, n - at);
      float* out[2] = {first.next(), second.next()};
      set.lines->errors(x + at, count, rule.levels, form, scales, inverses, out);
      first.push(count);
      second.push(count);
    }
    const float by_top = first.sum(), by_rms = second.sum();
    const int best = by_rms < by_top;
    *scale = scales[best];
    *inv = inverses[best];
  }
};

} // namespace

void best_of_two(const float* x, int64_t rows, int64_t n, const BestOfTwo& rule, float* scale,
                 float* inv, int threads) {
  if (n == 0) {
    std::fill(scale, scale + rows, 1.0f);
    std::fill(inv, inv + rows, 1.0f);
    return;
  }
  const int64_t together = std::max<int64_t>(1, kTask / n),
                tasks = (rows + together - 1) / together;
  const LevelForm form = form_of(rule.levels);
  // Each piece of the tasks has memory of its own, made before the threads begin.
  const int64_t pieces = std::min<int64_t>(std::clamp(threads, 1, kMostThreads) * kPieces, tasks);
  std::vector<float> memory(size_t(pieces * 2 * Tree::room(n)));
  parallel_for(threads, pieces, [&](int64_t piece) {
    Row row{active(), rule, form, memory.data() + piece * 2 * Tree::room(n)};
    const int64_t first = tasks * piece / pieces * together;
    const int64_t last = std::min(tasks * (piece + 1) / pieces * together, rows);
    for (int64_t r = first; r < last; ++r)
      row(x + r * n, n, scale + r, inv + r);
  });
}

} // namespace nybble
