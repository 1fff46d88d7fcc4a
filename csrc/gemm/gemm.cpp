#include "gemm/gemm.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/dispatch.hpp"
#include "gemm/finish.hpp"
#include "gemm/workers.hpp"

namespace nybble {
namespace {

// Blocks: a panel of b (2048 bytes x kColumns) stays in the first cache while the rows of a block
// of a (96 x 2048 bytes, second cache) pass by; a block of b (1024 columns) is shared by all
// threads. Blocks along the contraction keep their int32 sums in `out`.
constexpr int64_t kDepthBytes = 2048, kBlockRows = 96, kBlockColumns = 1024;
constexpr int64_t kBlockOfA = kDepthBytes * kBlockRows;
// Below this many products a second thread costs more than it brings.
constexpr int64_t kThreadWork = int64_t(1) << 20;

// What becomes of the sums of a block of the contraction.
enum class Then { Keep, Spill, Finish };

struct Step {
  int64_t from, count;
  bool fresh; // starts at zero, not at the sums kept in `out`
  Then then;
};

std::vector<Step> steps_of(int64_t k, int64_t depth, int64_t cut) {
  std::vector<Step> steps;
  int64_t held = 0;
  for (int64_t from = 0; from == 0 || from < k; from += depth) {
    const int64_t count = std::min(depth, k - from);
    const bool last = from + count >= k;
    steps.push_back({from, count, held == 0, last ? Then::Finish : Then::Keep});
    held += count;
    if (!last && held + std::min(depth, k - from - count) > cut) {
      steps.back().then = Then::Spill;
      held = 0;
    }
  }
  return steps;
}

// Elements i, i + 1, ... of a vector, `width` of them readable.
class Padded {
public:
  Padded(Vector v, int64_t length, int width) : v_(v), length_(length), width_(width) {
    const bool one = v.count != length || length == 1;
    tail_from_ = one ? 0 : length / width * width;
    for (int i = 0; i < width; ++i)
      tail_[i] = v.count == 0              ? 1.0f
                 : one                     ? v.at[0]
                 : tail_from_ + i < length ? v.at[tail_from_ + i]
                                           : 0.0f;
    if (one) tail_from_ = -1;
  }
  const float* at(int64_t i) const { return tail_from_ < 0 || i >= tail_from_ ? tail_ : v_.at + i; }

private:
  Vector v_;
  int64_t length_;
  int width_;
  int64_t tail_from_;
  float tail_[kColumns];
};

struct Tile {
  int rows, columns;
  float* out;
  int64_t stride;
};

// The line that a tile's row will be written to: it arrives while the products are made.
inline void prefetch(const float* at) {
#if defined(__GNUC__)
  __builtin_prefetch(at, 1);
#else
  (void)at;
#endif
}

void load_kept(const Tile& t, int32_t* acc) {
  for (int r = 0; r < t.rows; ++r) {
    int32_t kept[kColumns];
    std::memcpy(kept, t.out + r * t.stride, t.columns * sizeof(int32_t));
    for (int c = 0; c < t.columns; ++c)
      acc[r * kColumns + c] += kept[c];
  }
}

void keep(const Tile& t, const int32_t* acc) {
  for (int r = 0; r < t.rows; ++r)
    std::memcpy(t.out + r * t.stride, acc + r * kColumns, t.columns * sizeof(int32_t));
}

void finish_wide(const Tile& t, const int32_t* acc, const int64_t* wide, int64_t wide_stride,
                 const float* scale_a, const float* scale_b, const float* bias) {
  for (int r = 0; r < t.rows; ++r)
    for (int c = 0; c < t.columns; ++c) {
      const float scale = scale_a[r] * scale_b[c];
      const int64_t sum = wide[r * wide_stride + c] + acc[r * kColumns + c];
      float result = float(sum) * scale;
      if (bias != nullptr) result = result + bias[c];
      t.out[r * t.stride + c] = result;
    }
}

} // namespace

void multiply(const Plan& plan, int64_t groups, const uint32_t* a, const uint32_t* b,
              int32_t* acc) {
  const GemmKernels& kernels = *active().gemm;
  const auto bytes = [](const uint32_t* at) { return reinterpret_cast<const uint8_t*>(at); };
  const auto signed_bytes = [](const uint32_t* at) { return reinterpret_cast<const int8_t*>(at); };
  const auto words = [](const uint32_t* at) { return reinterpret_cast<const int16_t*>(at); };
  if (plan.kind == Multiply::U8S8)
    kernels.u8s8(groups, bytes(a), signed_bytes(b), plan.flush, acc);
  else if (plan.kind == Multiply::S8U8)
    kernels.s8u8(groups, signed_bytes(a), bytes(b), plan.flush, acc);
  else
    kernels.s16(groups, words(a), words(b), acc);
}

void compensate(const uint32_t* panel, int width, int64_t groups, int64_t shift, int32_t* out) {
  active().gemm->panels->sums(panel, width, groups, out);
  for (int i = 0; i < width; ++i)
    out[i] *= int32_t(shift);
}

void gemm(const Product& p, Vector scale_a, Vector scale_b, Vector bias) {
  if (p.m == 0 || p.n == 0) return;
  const Plan plan = make_plan(p.a.bounds, p.b.bounds, p.limit);
  const Source a(p.a, p.k, plan.shift_a, plan.size()), b(p.b, p.k, plan.shift_b, plan.size());
  const Padded row_scale(scale_a, p.m, kRows), column_scale(scale_b, p.n, kColumns);
  const Padded column_bias(bias, p.n, kColumns);

  const int group = plan.group();
  const int64_t depth = even(p.k, std::min<int64_t>(kDepthBytes / plan.size(), plan.cut), 64);
  const std::vector<Step> steps = steps_of(p.k, std::max<int64_t>(depth, group), plan.cut);
  const bool wide = p.k > plan.cut;

  const double work_items = double(p.m) * double(p.n) * double(p.k);
  const int threads =
      int(std::max(1.0, std::min<double>(p.threads, work_items / double(kThreadWork))));
  const int64_t n_block = even(p.n, kBlockColumns, kColumns);
  const int64_t most_rows = kBlockOfA / std::max<int64_t>(depth * plan.size(), 1);
  int64_t m_blocks =
      pieces(p.m, std::clamp(most_rows / kBlockRows, int64_t(1), int64_t(4)) * kBlockRows);
  m_blocks = std::min(up(m_blocks, threads), pieces(p.m, kRows));
  const int64_t m_block = up(pieces(p.m, m_blocks), kRows);
  m_blocks = pieces(p.m, m_block);

  const int64_t groups = pieces(depth, group);
  const int64_t a_stride = up(kRows * groups + 2, 16) + 16, b_stride = kColumns * groups + 16;
  Scratch scratch;
  uint32_t *a_panels = nullptr, *b_panels = nullptr;
  uint8_t* decode = nullptr;
  int32_t *a_sums = nullptr, *b_sums = nullptr;
  int64_t* spill = nullptr;
  for (int pass = 0; pass < 2; ++pass) {
    a_panels = scratch.piece<uint32_t>(threads * (m_block / kRows) * a_stride);
    b_panels = scratch.piece<uint32_t>(n_block / kColumns * b_stride);
    decode = scratch.piece<uint8_t>(threads * Source::scratch_bytes());
    a_sums = scratch.piece<int32_t>(threads * m_block);
    b_sums = scratch.piece<int32_t>(n_block);
    spill = scratch.piece<int64_t>(wide ? p.m * n_block : 0);
    if (pass == 0) scratch.reserve();
  }
  std::memset(a_sums, 0, size_t(threads * m_block) * sizeof(int32_t));
  std::memset(b_sums, 0, size_t(n_block) * sizeof(int32_t));
  const FinishKernels& finish = *active().gemm->finish;

  for (int64_t n0 = 0; n0 < p.n; n0 += n_block) {
    const int64_t columns = std::min(n_block, p.n - n0), b_count = pieces(columns, kColumns);
    if (wide) std::memset(spill, 0, size_t(p.m * n_block) * sizeof(int64_t));
    for (const Step& step : steps) {
      const int64_t g = pieces(step.count, group);
      // Panels of b: a few at a time, so that threads share them evenly.
      const int64_t few = threads > 1 ? 4 : b_count;
      work(threads, pieces(b_count, few), [&](int t, int64_t item) {
        const int64_t first = item * few, until = std::min(first + few, b_count);
        b.pack(n0 + first * kColumns, std::min(until * kColumns, columns) - first * kColumns,
               step.from, step.count, kColumns, decode + t * Source::scratch_bytes(),
               b_panels + first * b_stride, b_stride);
        for (int64_t j = first; plan.shift_a != 0 && j < until; ++j)
          compensate(b_panels + j * b_stride, kColumns, g, plan.shift_a, b_sums + j * kColumns);
      });
      // Blocks of rows; where there are few, each is cut into ranges of panels as well.
      const int64_t ranges =
          std::min(b_count, m_blocks < threads ? pieces(2 * threads, m_blocks) : 1);
      const int64_t range = pieces(b_count, ranges);
      work(threads, m_blocks * ranges, [&](int t, int64_t item) {
        const int64_t m0 = item / ranges * m_block, rows = std::min(m_block, p.m - m0);
        const int64_t a_count = pieces(rows, kRows);
        const int64_t first = item % ranges * range, until = std::min(first + range, b_count);
        uint32_t* own = a_panels + t * (m_block / kRows) * a_stride;
        int32_t* sums = a_sums + t * m_block;
        a.pack(m0, rows, step.from, step.count, kRows, decode + t * Source::scratch_bytes(), own,
               a_stride);
        for (int64_t i = 0; plan.shift_b != 0 && i < a_count; ++i)
          compensate(own + i * a_stride, kRows, g, plan.shift_b, sums + i * kRows);
        for (int64_t j = first; j < until; ++j)
          for (int64_t i = 0; i < a_count; ++i) {
            const int64_t row = m0 + i * kRows, column = n0 + j * kColumns;
            const Tile tile{int(std::min<int64_t>(kRows, p.m - row)),
                            int(std::min<int64_t>(kColumns, p.n - column)),
                            p.out + row * p.n + column, p.n};
            alignas(64) int32_t acc[kTile];
            finish.begin(sums + i * kRows, b_sums + j * kColumns, acc);
            if (step.then != Then::Spill)
              for (int r = 0; r < tile.rows; ++r)
                prefetch(tile.out + r * tile.stride);
            if (!step.fresh) load_kept(tile, acc);
            multiply(plan, g, own + i * a_stride, b_panels + j * b_stride, acc);
            int64_t* spilled = spill + row * n_block + j * kColumns;
            const float* s_a = row_scale.at(row);
            const float* s_b = column_scale.at(column);
            const float* add = bias.count == 0 ? nullptr : column_bias.at(column);
            if (step.then == Then::Keep) {
              keep(tile, acc);
            } else if (step.then == Then::Spill) {
              for (int r = 0; r < tile.rows; ++r)
                for (int c = 0; c < kColumns; ++c)
                  spilled[r * n_block + c] += acc[r * kColumns + c];
            } else if (wide) {
              finish_wide(tile, acc, spilled, n_block, s_a, s_b, add);
            } else {
              finish.tile(acc, tile.rows, tile.columns, s_a, s_b, add, tile.out, tile.stride);
            }
          }
      });
    }
  }
}

} // namespace nybble
