// Sums over tensors: tasks of 64 rows, then the tree over their results, then the lanes.
#include "quantize/sums.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "quantize/drivers.hpp"

namespace nybble {
namespace {

constexpr int64_t kTaskRows = 64;
constexpr int64_t kTask = kTaskRows * kLanes;

// The tree over `count` rows of lanes that lie one after the other; the result is the first row.
void tree_over(const SumKernels& kernels, float* rows, int64_t count) {
  for (; count > 1; count = (count + 1) / 2) {
    for (int64_t i = 0; i < count / 2; ++i)
      kernels.add(rows + 2 * i * kLanes, rows + (2 * i + 1) * kLanes, rows + i * kLanes);
    if (count % 2 && count > 1)
      std::memmove(rows + count / 2 * kLanes, rows + (count - 1) * kLanes, kLanes * sizeof(float));
  }
}

// The sums of `kSums` quantities over n elements. `group(row, at, count, out)` adds the `count`
// rows from element `at` on (the last of them may be short) into out[k]; it is told which task it
// works for. Tasks are independent; `nodes` has room for kSums rows of lanes a task.
template <int kSums, class Group>
void sum(const SumKernels& kernels, int64_t n, std::vector<float>& nodes, int threads,
         const Group& group, float* const* out) {
  const int64_t tasks = (n + kTask - 1) / kTask;
  parallel_for(threads, tasks, [&](int64_t task) {
    float part[kSums][kTaskRows / kGroupRows * kLanes];
    const int64_t end = std::min((task + 1) * kTask, n);
    int64_t groups = 0;
    for (int64_t at = task * kTask; at < end; at += kGroupRows * kLanes, ++groups) {
      const int64_t rows = (std::min(end - at, int64_t(kGroupRows * kLanes)) + kLanes - 1) / kLanes;
      float* to[kSums];
      for (int k = 0; k < kSums; ++k)
        to[k] = part[k] + groups * kLanes;
      group(task, at, int(rows), to);
    }
    for (int k = 0; k < kSums; ++k) {
      tree_over(kernels, part[k], groups);
      std::memcpy(nodes.data() + (k * tasks + task) * kLanes, part[k], kLanes * sizeof(float));
    }
  });
  for (int k = 0; k < kSums; ++k) {
    float* first = nodes.data() + k * tasks * kLanes;
    if (tasks > 1) tree_over(kernels, first, tasks);
    if (n > 0) kernels.fold(first, n);
    *out[k] = n > 0 ? first[0] + 0.0f : 0.0f; // a zero sum is +0
  }
}

size_t node_floats(int sums, int64_t n) {
  return size_t(sums) * size_t((n + kTask - 1) / kTask) * kLanes;
}

// Pointers to `count` rows of lanes from element `at` on; a short last row is copied and padded.
struct Rows {
  const float* row[kGroupRows];
  float last[kLanes];

  Rows(const float* x, int64_t n, int64_t at, int count) {
    for (int i = 0; i < count; ++i)
      row[i] = x + at + i * kLanes;
    const int64_t rest = n - at - int64_t(count - 1) * kLanes;
    if (rest < kLanes) {
      std::copy(row[count - 1], row[count - 1] + rest, last);
      std::fill(last + rest, last + kLanes, 0.0f);
      row[count - 1] = last;
    }
  }
};

// Calls `body(row, threads, nodes)` for every row of a batch: large rows one after the other with
// all threads, small ones side by side.
template <int kSums, class Body>
void batched(int64_t batch, int64_t n, int threads, const Body& body) {
  if (batch == 0) return; // n may be anything then
  if (batch == 1 || n > kTask) {
    std::vector<float> nodes(node_floats(kSums, n));
    for (int64_t row = 0; row < batch; ++row)
      body(row, threads, nodes);
    return;
  }
  const int64_t together = std::max<int64_t>(1, kTask / std::max<int64_t>(n, 1));
  const int64_t items = (batch + together - 1) / together;
  std::vector<std::vector<float>> nodes(static_cast<size_t>(items),
                                        std::vector<float>(node_floats(kSums, n)));
  parallel_for(threads, items, [&](int64_t item) {
    const int64_t last = std::min((item + 1) * together, batch);
    for (int64_t row = item * together; row < last; ++row)
      body(row, 1, nodes[size_t(item)]);
  });
}

} // namespace

void tree_sums(const float* x, int64_t batch, int64_t n, float* out, int threads) {
  const SumKernels& kernels = *active().sums;
  batched<1>(batch, n, threads, [&](int64_t b, int many, std::vector<float>& nodes) {
    const float* row = x + b * n;
    float* to[] = {out + b};
    const auto group = [&](int64_t, int64_t at, int count, float** sums) {
      const Rows rows(row, n, at, count);
      kernels.rows(rows.row, count, sums[0]);
    };
    sum<1>(kernels, n, nodes, many, group, to);
  });
}

void moments(const float* x, int64_t batch, int64_t n, float* squares, float* magnitudes,
             uint32_t* top, int threads) {
  const SumKernels& kernels = *active().sums;
  const int64_t tasks = (n + kTask - 1) / kTask;
  std::vector<uint32_t> tops(size_t(batch) * size_t(tasks), 0u);
  batched<2>(batch, n, threads, [&](int64_t b, int many, std::vector<float>& nodes) {
    const float* row = x + b * n;
    float* to[] = {squares + b, magnitudes + b};
    const auto group = [&](int64_t task, int64_t at, int count, float** sums) {
      const Rows rows(row, n, at, count);
      uint32_t& most = tops[size_t(b * tasks + task)];
      most = std::max(most, kernels.moments(rows.row, count, sums[0], sums[1]));
    };
    sum<2>(kernels, n, nodes, many, group, to);
    top[b] = 0;
    for (int64_t task = 0; task < tasks; ++task)
      top[b] = std::max(top[b], tops[size_t(b * tasks + task)]);
  });
}

void mask_gradient(float* dx, int64_t n, const uint8_t* mask, const uint8_t* codes,
                   const int8_t* sides, bool two_sided, float* out, int threads) {
  const SumKernels& kernels = *active().sums;
  if (codes == nullptr) {
    parallel_for(threads, (n + kTask - 1) / kTask, [&](int64_t task) {
      const int64_t at = task * kTask;
      kernels.masked(dx + at, std::min(kTask, n - at), mask + at / 8, nullptr, nullptr, nullptr,
                     nullptr);
    });
    return;
  }
  const auto leaves = [&](int64_t at, int count, float* above, float* below) {
    for (int i = 0; i < count; ++i) {
      const int64_t from = at + i * kLanes;
      kernels.masked(dx + from, std::min(int64_t(kLanes), n - from), mask + from / 8,
                     codes + from / 2, sides, above + i * kLanes,
                     below == nullptr ? nullptr : below + i * kLanes);
    }
  };
  const auto add = [&](const float* leaf, int count, float* to) {
    const float* rows[kGroupRows];
    for (int i = 0; i < count; ++i)
      rows[i] = leaf + i * kLanes;
    kernels.rows(rows, count, to);
  };
  std::vector<float> nodes(node_floats(two_sided ? 2 : 1, n));
  float* to[] = {out, out + 1};
  if (two_sided) {
    const auto group = [&](int64_t, int64_t at, int count, float** sums) {
      float above[kGroupRows * kLanes], below[kGroupRows * kLanes];
      leaves(at, count, above, below);
      add(above, count, sums[0]);
      add(below, count, sums[1]);
    };
    sum<2>(kernels, n, nodes, threads, group, to);
  } else {
    const auto group = [&](int64_t, int64_t at, int count, float** sums) {
      float above[kGroupRows * kLanes];
      leaves(at, count, above, nullptr);
      add(above, count, sums[0]);
    };
    sum<1>(kernels, n, nodes, threads, group, to);
  }
}

} // namespace nybble
