#include "recurrent/product.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "core/dispatch.hpp"
#include "gemm/finish.hpp"

namespace nybble {
namespace {

constexpr int64_t kDepthBytes = 2048; // of a panel's row or column: gemm.cpp
constexpr int64_t kTiles = 16;        // row tiles whose sums are held at a time
constexpr int64_t kLimit = INT32_MAX;
constexpr int64_t kThreadWork = int64_t(1) << 20; // products below which one thread is faster

std::vector<float> padded(Vector v, int64_t n) {
  std::vector<float> out(size_t(up(n, kColumns)), 0.0f);
  for (int64_t i = 0; i < n; ++i)
    out[size_t(i)] = v.count == 0 ? 1.0f : v.at[v.count == 1 ? 0 : i];
  return out;
}

} // namespace

bool StepProduct::fits(Bounds a, Bounds b, int64_t k) { return k <= make_plan(a, b, kLimit).cut; }

StepProduct::StepProduct(const Matrix& weights, const StepCodes& codes, int64_t n, int64_t k,
                         int64_t rows, Vector scale, Vector bias, int threads)
    : codes_(codes), plan_(make_plan(codes.bounds, weights.bounds, kLimit)), n_(n), k_(k),
      threads_(std::max(1, std::min(threads, kMostThreads))), has_bias_(bias.count > 0),
      scale_(padded(scale, n)), bias_(padded(bias, n)) {
  if (k > plan_.cut)
    throw std::invalid_argument("sequence: int32 does not hold sums of " + std::to_string(k) +
                                " products of such integers");
  const int group = plan_.group();
  const int64_t depth = even(k, kDepthBytes / plan_.size(), 64);
  const int64_t a_tiles = nybble::pieces(rows, kRows), b_panels = nybble::pieces(n, kColumns);
  for (int64_t from = 0; from < k; from += depth) {
    const int64_t count = std::min(depth, k - from), groups = nybble::pieces(count, group);
    pieces_.push_back({from, count, groups, nullptr, nullptr, up(kRows * groups + 2, 16) + 16,
                       kColumns * groups + 16});
  }
  for (int pass = 0; pass < 2; ++pass) {
    for (Piece& piece : pieces_) {
      piece.a = scratch_.piece<uint32_t>(a_tiles * piece.a_stride);
      piece.b = scratch_.piece<uint32_t>(b_panels * piece.b_stride);
    }
    decode_ = scratch_.piece<uint8_t>(threads_ * Source::scratch_bytes());
    a_sums_ = scratch_.piece<int32_t>(a_tiles * kRows);
    b_sums_ = scratch_.piece<int32_t>(b_panels * kColumns);
    acc_ = scratch_.piece<int32_t>(threads_ * kTiles * kTile);
    if (pass == 0) scratch_.reserve();
  }
  std::memset(b_sums_, 0, size_t(b_panels * kColumns) * sizeof(int32_t));
  const Source b(weights, k, plan_.shift_b, plan_.size());
  work(threads_, b_panels, [&](int t, int64_t j) {
    const int64_t first = j * kColumns, width = std::min<int64_t>(kColumns, n_ - first);
    for (const Piece& piece : pieces_) {
      uint32_t* to = piece.b + j * piece.b_stride;
      b.pack(first, width, piece.from, piece.count, kColumns, decode_ + t * Source::scratch_bytes(),
             to, piece.b_stride);
      if (plan_.shift_a == 0) continue;
      int32_t sums[kColumns];
      compensate(to, kColumns, piece.groups, plan_.shift_a, sums);
      for (int c = 0; c < kColumns; ++c)
        b_sums_[first + c] += sums[c];
    }
  });
}

void StepProduct::run(const uint8_t* codes, int64_t m, const float* multipliers, int64_t apart,
                      float* out) {
  if (m == 0 || n_ == 0) return;
  const Matrix rows{codes, 4, codes_.table, codes_.bounds, m, true};
  const Source a(rows, k_, plan_.shift_a, plan_.size());
  const int64_t tiles = nybble::pieces(m, kRows), panels = nybble::pieces(n_, kColumns);
  const double items = double(m) * double(n_) * double(k_);
  const int threads = int(std::max(1.0, std::min<double>(threads_, items / double(kThreadWork))));
  work(threads, tiles, [&](int t, int64_t i) {
    const int64_t first = i * kRows, count = std::min<int64_t>(kRows, m - first);
    std::memset(a_sums_ + first, 0, kRows * sizeof(int32_t));
    for (const Piece& piece : pieces_) {
      uint32_t* to = piece.a + i * piece.a_stride;
      a.pack(first, count, piece.from, piece.count, kRows, decode_ + t * Source::scratch_bytes(),
             to, piece.a_stride);
      if (plan_.shift_b == 0) continue;
      int32_t sums[kRows];
      compensate(to, kRows, piece.groups, plan_.shift_b, sums);
      for (int r = 0; r < kRows; ++r)
        a_sums_[first + r] += sums[r];
    }
  });
  const FinishKernels& finish = *active().gemm->finish;
  work(threads, panels, [&](int t, int64_t j) {
    int32_t* acc = acc_ + t * kTiles * kTile;
    const int64_t column = j * kColumns;
    const int width = int(std::min<int64_t>(kColumns, n_ - column));
    for (int64_t i0 = 0; i0 < tiles; i0 += kTiles) {
      const int64_t until = std::min(i0 + kTiles, tiles);
      for (int64_t i = i0; i < until; ++i)
        finish.begin(a_sums_ + i * kRows, b_sums_ + column, acc + (i - i0) * kTile);
      for (const Piece& piece : pieces_)
        for (int64_t i = i0; i < until; ++i)
          multiply(plan_, piece.groups, piece.a + i * piece.a_stride, piece.b + j * piece.b_stride,
                   acc + (i - i0) * kTile);
      for (int64_t i = i0; i < until; ++i) {
        const int count = int(std::min<int64_t>(kRows, m - i * kRows));
        float scale_a[kRows] = {};
        for (int r = 0; r < count; ++r)
          scale_a[r] = multipliers[(i * kRows + r) * apart];
        finish.tile(acc + (i - i0) * kTile, count, width, scale_a, scale_.data() + column,
                    has_bias_ ? bias_.data() + column : nullptr, out + i * kRows * n_ + column, n_);
      }
    }
  });
}

} // namespace nybble
