#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/dispatch.hpp"
#include "gemm/finish.hpp"
#include "gemm/gemm.hpp"
#include "gemm/workers.hpp"

namespace nybble {
namespace {

// Elements of the contraction in panels at a time, and rows and columns in a block: smaller than
// in gemm.cpp, since the scales of every block lie beside the panels.
constexpr int64_t kDepth = 1024, kBlockRows = 96, kBlockColumns = 512;

// to[block][i] = scale(free0 + i, block0 + block), zeros beyond the operand
void copy_scales(const BlockScales& scale, int64_t free0, int64_t free, int width, int64_t block0,
                 int64_t blocks, float* to) {
  for (int64_t s = 0; s < blocks; ++s)
    for (int i = 0; i < width; ++i, ++to)
      *to = free0 + i < free
                ? scale.at[(free0 + i) * scale.along_free + (block0 + s) * scale.along_block]
                : 0.0f;
}

// Panels in which every block begins on a group: `per` groups a block.
void pack(const Source& source, int64_t f0, int64_t free, int64_t k0, int64_t count, int64_t block,
          int64_t per, int group, int width, uint8_t* scratch, uint32_t* out, int64_t stride) {
  if (block % group == 0) {
    source.pack(f0, free, k0, count, width, scratch, out, stride);
    return;
  }
  for (int64_t k = 0; k < count; k += block, out += per * width)
    source.pack(f0, free, k0 + k, std::min(block, count - k), width, scratch, out, stride);
}

} // namespace

void block_gemm(const Product& p, int64_t block, BlockScales scale_a, BlockScales scale_b) {
  if (p.m == 0 || p.n == 0) return;
  const Plan plan = make_plan(p.a.bounds, p.b.bounds, p.limit);
  if (block > plan.cut)
    throw std::invalid_argument("block_gemm: a block of " + std::to_string(block) +
                                " products may leave int32; at most " + std::to_string(plan.cut));
  const Source a(p.a, p.k, plan.shift_a, plan.size()), b(p.b, p.k, plan.shift_b, plan.size());
  const int group = plan.group();
  const int64_t per = pieces(block, group); // groups of a block
  const int64_t most = std::max<int64_t>(kDepth / block, 1), depth = most * block;
  const int64_t m_blocks = pieces(p.m, kBlockRows), n_block = even(p.n, kBlockColumns, kColumns);
  const int64_t a_count_most = kBlockRows / kRows, b_count_most = n_block / kColumns;
  const int64_t a_stride = up(kRows * per * most + 2, 16) + 16;
  const int64_t b_stride = kColumns * per * most + 16;
  const int threads = std::max(p.threads, 1);

  Scratch scratch;
  uint32_t *a_panels = nullptr, *b_panels = nullptr;
  uint8_t* decode = nullptr;
  int32_t *a_sums = nullptr, *b_sums = nullptr;
  float *a_scales = nullptr, *b_scales = nullptr;
  for (int pass = 0; pass < 2; ++pass) {
    a_panels = scratch.piece<uint32_t>(threads * a_count_most * a_stride);
    b_panels = scratch.piece<uint32_t>(b_count_most * b_stride);
    decode = scratch.piece<uint8_t>(threads * Source::scratch_bytes());
    a_sums = scratch.piece<int32_t>(threads * kBlockRows * most);
    b_sums = scratch.piece<int32_t>(n_block * most);
    a_scales = scratch.piece<float>(threads * kBlockRows * most);
    b_scales = scratch.piece<float>(n_block * most);
    if (pass == 0) scratch.reserve();
  }
  std::memset(a_sums, 0, size_t(threads * kBlockRows * most) * sizeof(int32_t));
  std::memset(b_sums, 0, size_t(n_block * most) * sizeof(int32_t));
  const FinishKernels& finish = *active().gemm->finish;

  for (int64_t n0 = 0; n0 < p.n; n0 += n_block) {
    const int64_t columns = std::min(n_block, p.n - n0), b_count = pieces(columns, kColumns);
    for (int64_t k0 = 0; k0 == 0 || k0 < p.k; k0 += depth) {
      const int64_t count = std::min(depth, p.k - k0), blocks = pieces(count, block);
      const auto groups_of = [&](int64_t s) {
        return pieces(std::min(block, count - s * block), group);
      };
      work(threads, b_count, [&](int t, int64_t j) {
        uint32_t* panel = b_panels + j * b_stride;
        const int64_t column = n0 + j * kColumns;
        pack(b, column, std::min<int64_t>(kColumns, p.n - column), k0, count, block, per, group,
             kColumns, decode + t * Source::scratch_bytes(), panel, b_stride);
        copy_scales(scale_b, column, p.n, kColumns, k0 / block, blocks,
                    b_scales + j * most * kColumns);
        for (int64_t s = 0; plan.shift_a != 0 && s < blocks; ++s)
          compensate(panel + s * per * kColumns, kColumns, groups_of(s), plan.shift_a,
                     b_sums + (j * most + s) * kColumns);
      });
      work(threads, m_blocks, [&](int t, int64_t item) {
        const int64_t m0 = item * kBlockRows, rows = std::min(kBlockRows, p.m - m0);
        uint32_t* own = a_panels + t * a_count_most * a_stride;
        int32_t* own_sums = a_sums + t * kBlockRows * most;
        float* own_scales = a_scales + t * kBlockRows * most;
        pack(a, m0, rows, k0, count, block, per, group, kRows, decode + t * Source::scratch_bytes(),
             own, a_stride);
        for (int64_t i = 0; i < pieces(rows, kRows); ++i) {
          copy_scales(scale_a, m0 + i * kRows, p.m, kRows, k0 / block, blocks,
                      own_scales + i * most * kRows);
          for (int64_t s = 0; plan.shift_b != 0 && s < blocks; ++s)
            compensate(own + i * a_stride + s * per * kRows, kRows, groups_of(s), plan.shift_b,
                       own_sums + (i * most + s) * kRows);
        }
        for (int64_t j = 0; j < b_count; ++j)
          for (int64_t i = 0; i < pieces(rows, kRows); ++i) {
            const int64_t row = m0 + i * kRows, column = n0 + j * kColumns;
            const int64_t height = std::min<int64_t>(kRows, p.m - row);
            const int64_t width = std::min<int64_t>(kColumns, p.n - column);
            float* out = p.out + row * p.n + column;
            alignas(64) float sum[kTile] = {};
            for (int64_t r = 0; k0 > 0 && r < height; ++r)
              std::memcpy(sum + r * kColumns, out + r * p.n, width * sizeof(float));
            for (int64_t s = 0; s < blocks; ++s) {
              alignas(64) int32_t acc[kTile];
              const int32_t* b_sum = b_sums + (j * most + s) * kColumns;
              const int32_t* a_sum = own_sums + (i * most + s) * kRows;
              finish.begin(a_sum, b_sum, acc);
              multiply(plan, groups_of(s), own + i * a_stride + s * per * kRows,
                       b_panels + j * b_stride + s * per * kColumns, acc);
              finish.block(acc, own_scales + (i * most + s) * kRows,
                           b_scales + (j * most + s) * kColumns, sum);
            }
            for (int64_t r = 0; r < height; ++r)
              std::memcpy(out + r * p.n, sum + r * kColumns, width * sizeof(float));
          }
      });
    }
  }
}

} // namespace nybble
