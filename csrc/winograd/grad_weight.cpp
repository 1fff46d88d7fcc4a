// Weight gradient: M = sum over tiles of (A dy A^T) V, chunk of tiles by chunk of tiles.
//
// Both operands of a chunk are transformed into panels of 16 channels whose groups are pairs of
// tiles; then every position is a Gemm [outputs x tiles] [tiles x channels] that adds to its M.
// M wraps modulo 2^32; before 4 dw could leave 32 bits it is turned into dw and added in int64.
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "winograd/image.hpp"
#include "winograd/kernels.hpp"
#include "winograd/winograd.hpp"

namespace nybble {
namespace {

// Pairs of tiles in a chunk: at least 64 vpmaddwd for one read and write of M.
constexpr int64_t kChunkPairs = 128;
// Up to so many pairs are one chunk, and M is never stored: see `at_once`. With more, the operands
// of 16 positions leave the L2 cache and are slower than M.
constexpr int64_t kAtOncePairs = 64;
// All Ms together, up to this size, are worth having once a thread: threads that share it, or the
// transformed tiles, move cache lines between cores all the time (measured: no gain at all from a
// second thread).
constexpr int64_t kOwnBytes = int64_t(16) << 20;
constexpr int kBlockSize = kPanel * kPanel;
constexpr int kAtOnceStride = kBlockSize + 16;

class GradWeight {
public:
  GradWeight(const WinogradGradWeight& c, int64_t limit)
      : c_(c), kernels_(*active().winograd), decode_(*active().decode),
        grad_(make_image<int16_t>(c.grad.packed, c.grad.table)),
        image_(make_image<int16_t>(c.image.packed, c.image.table)),
        out_height_(c.height + 2 * c.pad_h - 2), out_width_(c.width + 2 * c.pad_w - 2),
        o_panels_((c.outputs + kPanel - 1) / kPanel), c_panels_((c.channels + kPanel - 1) / kPanel),
        tile_rows_((out_height_ + 1) / 2), row_pairs_((out_width_ + 3) / 4),
        limit_pairs_(limit / 2) {
    grad_.n = image_.n = c.n;
    grad_.height = out_height_, grad_.width = out_width_, grad_.channels = c.outputs;
    image_.height = c.height, image_.width = c.width, image_.channels = c.channels;
    image_.pad_h = c.pad_h, image_.pad_w = c.pad_w;
    const int64_t pairs = c.n * tile_rows_ * row_pairs_;
    at_once_ = pairs <= std::min(kAtOncePairs, limit_pairs_);
    const int64_t most =
        at_once_ ? std::max<int64_t>(pairs, 1) : std::min(kChunkPairs, limit_pairs_);
    columns_ = std::min(row_pairs_, most);
    rows_ = std::min(std::max<int64_t>(1, most / columns_), c.n * tile_rows_);
    panel_ = rows_ * columns_ * 2 * kPanel;
    g_position_ = o_panels_ * panel_ + 32;
    x_position_ = c_panels_ * panel_ + 32;
    m_position_ = o_panels_ * c_panels_ * kBlockSize + 16;
  }

  void run() {
    const int64_t m_bytes = kPositions * m_position_ * int64_t(sizeof(int32_t));
    const int64_t workers = std::min<int64_t>(c_.threads, c_.n * tile_rows_);
    if (!at_once_ && workers > 1 && workers * m_bytes <= kOwnBytes && row_pairs_ <= limit_pairs_)
      return by_worker(int(std::min<int64_t>(workers, kMostThreads)));
    Tiles tiles(*this);
    std::vector<Array<int16_t>> memory;
    for (int i = 0; i < std::max(c_.threads, 1); ++i)
      memory.push_back(row_memory());
    if (at_once_)
      at_once(memory, tiles.g.data(), tiles.x.data());
    else
      chunk_by_chunk(memory, tiles.g.data(), tiles.x.data());
  }

private:
  // The transformed tiles of a chunk; lanes beyond the last channel are never read, but defined.
  struct Tiles {
    Array<int16_t> g, x;
    explicit Tiles(const GradWeight& all)
        : g(kPositions * all.g_position_), x(kPositions * all.x_position_) {
      if (all.c_.outputs % kPanel != 0)
        std::memset(g.data(), 0, size_t(kPositions * all.g_position_) * sizeof(int16_t));
      if (all.c_.channels % kPanel != 0)
        std::memset(x.data(), 0, size_t(kPositions * all.x_position_) * sizeof(int16_t));
    }
  };

  Array<int16_t> row_memory() const {
    const int64_t row = 4 * row_elements<int16_t>(4 * columns_ + 2, c_.channels) +
                        2 * row_elements<int16_t>(4 * columns_, c_.outputs);
    Array<int16_t> memory(row);
    std::memset(memory.data(), 0, size_t(row) * sizeof(int16_t));
    return memory;
  }

  // Every worker sums tile rows of its own into an M of its own; the Ms are added modulo 2^32, so
  // where the rows are cut makes no difference. A round has no more pairs than int32 can hold.
  void by_worker(int workers) {
    std::vector<Tiles> tiles;
    std::vector<Array<int16_t>> memory;
    std::vector<Array<int32_t>> sums;
    for (int i = 0; i < workers; ++i) {
      tiles.emplace_back(*this);
      memory.push_back(row_memory());
      sums.emplace_back(kPositions * m_position_);
    }
    const int64_t all = c_.n * tile_rows_, round = limit_pairs_ / row_pairs_;
    for (int64_t row0 = 0; row0 < all; row0 += round) {
      const int64_t rows = std::min(round, all - row0);
      parallel_for(workers, workers, [&](int64_t w) {
        int32_t* const m = sums[size_t(w)].data();
        int16_t *const g = tiles[size_t(w)].g.data(), *const x = tiles[size_t(w)].x.data();
        std::memset(m, 0, size_t(kPositions * m_position_) * sizeof(int32_t));
        const int64_t end = row0 + rows * (w + 1) / workers;
        for (int64_t r = row0 + rows * w / workers; r < end; r += rows_)
          for (int64_t column = 0; column < row_pairs_; column += columns_) {
            const int64_t count = std::min(rows_, end - r);
            const int64_t columns = std::min(columns_, row_pairs_ - column);
            transform_rows(r, 0, count, column, columns, memory[size_t(w)].data(), g, x);
            for (int64_t item = 0; item < kPositions * o_panels_; ++item)
              multiply_item(item, count * columns, g, x, m);
          }
      });
      parallel_for(workers, kPositions, [&](int64_t p) {
        auto* const to = reinterpret_cast<uint32_t*>(sums[0].data()) + p * m_position_;
        for (size_t w = 1; w < sums.size(); ++w) {
          const auto* from = reinterpret_cast<const uint32_t*>(sums[w].data()) + p * m_position_;
          for (int64_t i = 0; i < m_position_; ++i)
            to[i] += from[i];
        }
      });
      if (wide_ || row0 + rows < all) spill(sums[0].data());
    }
    if (wide_)
      write_wide();
    else
      for_sums(sums[0].data(), Write{*this});
  }

  // One chunk: the 16 positions of one block of outputs and channels, one after the other, then
  // straight to the result. Deep layers have few tiles and a large M.
  void at_once(const std::vector<Array<int16_t>>& memory, int16_t* g, int16_t* x) const {
    const int64_t pairs = rows_ * columns_;
    if (pairs > 0) transform(0, rows_, 0, columns_, memory, g, x);
    parallel_for(c_.threads, o_panels_, [&](int64_t a) {
      alignas(64) int32_t m[kPositions * kAtOnceStride];
      for (int64_t b = 0; b < c_panels_; ++b) {
        std::memset(m, 0, sizeof(m));
        for (int p = 0; p < kPositions; ++p)
          kernels_.products->pairs(pairs, g + p * g_position_ + a * panel_,
                                   x + p * x_position_ + b * panel_, m + p * kAtOnceStride);
        sums_of(m, kAtOnceStride, a, b, Write{*this});
      }
    });
  }

  void chunk_by_chunk(const std::vector<Array<int16_t>>& memory, int16_t* g, int16_t* x) {
    Array<int32_t> m(kPositions * m_position_);
    const size_t m_bytes = size_t(kPositions * m_position_) * sizeof(int32_t);
    std::memset(m.data(), 0, m_bytes);
    const int64_t all = c_.n * tile_rows_;
    int64_t summed = 0; // pairs in M
    for (int64_t row0 = 0; row0 < all; row0 += rows_)
      for (int64_t column0 = 0; column0 < row_pairs_; column0 += columns_) {
        const int64_t rows = std::min(rows_, all - row0);
        const int64_t columns = std::min(columns_, row_pairs_ - column0);
        const int64_t pairs = rows * columns;
        if (summed + pairs > limit_pairs_) {
          spill(m.data());
          std::memset(m.data(), 0, m_bytes);
          summed = 0;
        }
        transform(row0, rows, column0, columns, memory, g, x);
        multiply(pairs, g, x, m.data());
        summed += pairs;
      }
    if (wide_) {
      spill(m.data());
      write_wide();
    } else {
      for_sums(m.data(), Write{*this});
    }
  }

  void transform(int64_t row0, int64_t rows, int64_t column0, int64_t columns,
                 const std::vector<Array<int16_t>>& memory, int16_t* g, int16_t* x) const {
    const int64_t workers = std::min<int64_t>(int64_t(memory.size()), rows);
    parallel_for(c_.threads, workers, [&](int64_t worker) {
      transform_rows(row0, rows * worker / workers, rows * (worker + 1) / workers, column0, columns,
                     memory[size_t(worker)].data(), g, x);
    });
  }

  // Rows [begin, end) of the chunk that starts at tile row `row0`.
  void transform_rows(int64_t row0, int64_t begin, int64_t end, int64_t column0, int64_t columns,
                      int16_t* memory, int16_t* g, int16_t* x) const {
    int16_t* const g_rows = memory + 4 * row_elements<int16_t>(4 * columns_ + 2, c_.channels);
    TileWindow<int16_t, 4> image(image_, decode_, 4 * column0, 4 * columns + 2, memory);
    TileWindow<int16_t, 2> grad(grad_, decode_, 4 * column0, 4 * columns, g_rows);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t index = (row0 + r) / tile_rows_, tile_row = (row0 + r) % tile_rows_;
      const int64_t at = r * columns * 2 * kPanel;
      kernels_.data->pairs_data(image.at(index, tile_row), columns, c_.channels, panel_,
                                x_position_, x + at);
      kernels_.data->pairs_grad(grad.at(index, tile_row), columns, c_.outputs, panel_, g_position_,
                                g + at);
    }
  }

  void multiply(int64_t pairs, const int16_t* g, const int16_t* x, int32_t* m) const {
    parallel_for(c_.threads, kPositions * o_panels_,
                 [&](int64_t item) { multiply_item(item, pairs, g, x, m); });
  }

  void multiply_item(int64_t item, int64_t pairs, const int16_t* g, const int16_t* x,
                     int32_t* m) const {
    const int64_t p = item / o_panels_, a = item % o_panels_;
    for (int64_t b = 0; b < c_panels_; ++b)
      kernels_.products->pairs(pairs, g + p * g_position_ + a * panel_,
                               x + p * x_position_ + b * panel_, block(m, a, b) + p * m_position_);
  }

  int32_t* block(int32_t* m, int64_t a, int64_t b) const {
    return m + (a * c_panels_ + b) * kBlockSize;
  }

  // body(o, tap, c0, count, sums) for every run of up to 16 channels.
  template <class Body>
  void sums_of(const int32_t* m, int64_t stride, int64_t a, int64_t b, const Body& body) const {
    int32_t sums[kPanel * 9 * kPanel];
    kernels_.results->grad_weight(m, stride, sums);
    const int64_t outputs = std::min<int64_t>(kPanel, c_.outputs - a * kPanel);
    const int64_t count = std::min<int64_t>(kPanel, c_.channels - b * kPanel);
    for (int64_t o = 0; o < outputs; ++o)
      for (int tap = 0; tap < 9; ++tap)
        body(a * kPanel + o, tap, b * kPanel, count, sums + (o * 9 + tap) * kPanel);
  }

  template <class Body>
  void for_sums(int32_t* m, const Body& body) const {
    parallel_for(c_.threads, o_panels_, [&](int64_t a) {
      for (int64_t b = 0; b < c_panels_; ++b)
        sums_of(block(m, a, b), m_position_, a, b, body);
    });
  }

  void spill(int32_t* m) {
    if (!wide_) wide_.reset(new int64_t[size_t(c_.outputs * 9 * c_.channels)]());
    for_sums(m, [&](int64_t o, int tap, int64_t c0, int64_t count, const int32_t* sums) {
      int64_t* const to = wide_.get() + (o * 9 + tap) * c_.channels + c0;
      for (int64_t i = 0; i < count; ++i)
        to[i] += sums[i];
    });
  }

  template <class T>
  void scale(int64_t o, int64_t c0, int64_t count, const T* sums, float* to) const {
    const float by = c_.scale_grad[c_.scale_grad_count > 1 ? o : 0];
    if (c_.scale_image_count > 1) {
      for (int64_t i = 0; i < count; ++i)
        to[i] = float(sums[i]) * (by * c_.scale_image[c0 + i]);
    } else {
      const float both = by * c_.scale_image[0];
      for (int64_t i = 0; i < count; ++i)
        to[i] = float(sums[i]) * both;
    }
  }

  struct Write {
    const GradWeight& all;
    void operator()(int64_t o, int tap, int64_t c0, int64_t count, const int32_t* sums) const {
      float* const to = all.c_.out + (o * 9 + tap) * all.c_.channels + c0;
      // A known length lets the compiler use registers of four.
      if (count == kPanel)
        all.scale(o, c0, kPanel, sums, to);
      else
        all.scale(o, c0, count, sums, to);
    }
  };

  void write_wide() const {
    parallel_for(c_.threads, c_.outputs * 9, [&](int64_t i) {
      scale(i / 9, 0, c_.channels, wide_.get() + i * c_.channels, c_.out + i * c_.channels);
    });
  }

  const WinogradGradWeight& c_;
  const WinogradKernels& kernels_;
  const DecodeKernels& decode_;
  Image<int16_t> grad_, image_;
  int64_t out_height_, out_width_, o_panels_, c_panels_;
  int64_t tile_rows_, row_pairs_; // of one image
  int64_t limit_pairs_;
  int64_t rows_, columns_; // of one chunk: tile rows, pairs
  int64_t panel_, g_position_, x_position_, m_position_;
  bool at_once_;
  std::unique_ptr<int64_t[]> wide_; // dw, once a spill was needed
};

} // namespace

void winograd_grad_weight(const WinogradGradWeight& c) {
  if (c.outputs == 0 || c.channels == 0) return;
  const int64_t limit = std::min(grad_weight_tiles(c.grad.range, c.image.range), c.spill);
  if (limit < 2)
    throw std::invalid_argument("winograd: these ranges of integers do not fit (see `supports`)");
  GradWeight(c, limit).run();
}

} // namespace nybble
