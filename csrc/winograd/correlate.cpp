// Output and input gradient: a block of tiles at a time, so that its V stays in the L2 cache.
#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <vector>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "winograd/image.hpp"
#include "winograd/kernels.hpp"
#include "winograd/winograd.hpp"

namespace nybble {
namespace {

constexpr int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// V of a block is about this large.
constexpr int64_t kBlockBytes = 400 << 10;
// Results of so many bytes do not fit the L2 cache and share the L3 cache with others: written past
// the caches, they are not read from memory first.
constexpr int64_t kStreamBytes = 4 << 20;
// Tiles whose M is made at once, for 16 outputs.
constexpr int64_t kPart = 2 * kTileGroup;
constexpr int64_t kPartStride = kPart * kPanel + 16;

template <class T>
constexpr int64_t kGroup = sizeof(T) == 1 ? 4 : 2;

// The tiles of all images, cut into blocks: `rows` tile rows of `columns` tiles.
struct Blocks {
  int64_t tile_rows, tile_columns; // of one image
  int64_t rows, columns;           // of one block
  int64_t across, count;

  Blocks(int64_t n, int64_t out_height, int64_t out_width, int64_t tiles, int threads) {
    tile_rows = (out_height + 1) / 2, tile_columns = (out_width + 1) / 2;
    const int64_t all = n * tile_rows;
    // Few tiles: smaller blocks, so that every thread has one.
    tiles = std::min(tiles, std::max<int64_t>(1, all * tile_columns / std::max(threads, 1)));
    columns = std::min(tile_columns, std::max<int64_t>(tiles, kTileGroup));
    across = (tile_columns + columns - 1) / columns;
    rows = std::max<int64_t>(1, tiles / columns);
    count = (all + rows - 1) / rows * across;
  }
  int64_t tiles() const { return rows * columns; }
};

template <class T>
class Correlation {
public:
  explicit Correlation(const WinogradCorrelation& c)
      : c_(c), kernels_(*active().winograd), decode_(*active().decode),
        image_(make_image<T>(c.image.packed, c.image.table)),
        groups_((c.channels + kGroup<T> - 1) / kGroup<T>),
        panel_(up(groups_, kGroupStep) * kPanel * kGroup<T>),
        panels_((c.outputs + kPanel - 1) / kPanel), out_height_(c.height + 2 * c.pad_h - 2),
        out_width_(c.width + 2 * c.pad_w - 2),
        stream_(c.n * out_height_ * out_width_ * c.outputs * 4 >= kStreamBytes),
        u_(panels_ * kPositions * panel_), add_(panels_ * 4 * kPanel, 0),
        blocks_(c.n, out_height_, out_width_, block_tiles(c.channels), c.threads) {
    image_.n = c.n, image_.height = c.height, image_.width = c.width;
    image_.channels = c.channels, image_.pad_h = c.pad_h, image_.pad_w = c.pad_w;
    for (int p = 0; p < kPositions; ++p)
      flush_[p] = correlation_flush(c.image.range, c.kernels.range, p);
  }

  void run() {
    transform_weights();
    const int64_t workers =
        std::min<int64_t>(std::max(c_.threads, 1), std::max<int64_t>(blocks_.count, 1));
    v_tile_ = up(c_.channels, 32);
    const int64_t tiles = up(blocks_.tiles(), kTileGroup);
    // A cache line more than a round number: 16 positions at one address modulo 4096 would share
    // eight lines.
    v_position_ = tiles * v_tile_ + 64;
    const int64_t row = row_elements<T>(2 * blocks_.columns + 2, c_.channels);
    std::vector<Array<T>> rows, v;
    std::vector<Array<int32_t>> m;
    for (int64_t i = 0; i < workers; ++i) {
      rows.emplace_back(4 * row);
      v.emplace_back(kPositions * v_position_);
      m.emplace_back(kPositions * kPartStride);
      std::memset(rows.back().data(), 0, size_t(4 * row) * sizeof(T));
      if (c_.channels % kGroup<T> != 0)
        std::memset(v.back().data(), 0, size_t(kPositions * v_position_) * sizeof(T));
    }
    std::atomic<int64_t> next{0};
    parallel_for(c_.threads, workers, [&](int64_t worker) {
      for (int64_t i = next++; i < blocks_.count; i = next++)
        block(i, rows[size_t(worker)].data(), v[size_t(worker)].data(), m[size_t(worker)].data());
      kernels_.results->flush(); // streamed results, before another thread reads them
    });
  }

private:
  static int64_t block_tiles(int64_t channels) {
    const int64_t tiles = kBlockBytes / (kPositions * up(channels, 32) * int64_t(sizeof(T)));
    return std::clamp<int64_t>(tiles, 4 * kTileGroup, 16 * kTileGroup) / kTileGroup * kTileGroup;
  }

  void transform_weights() {
    const int64_t count = 9 * c_.outputs * c_.channels, chunk = 1 << 14;
    Array<T> w(count + kSlackBytes);
    T table[16];
    for (int i = 0; i < 16; ++i)
      table[i] = T(c_.kernels.table[i]);
    parallel_for(c_.threads, (count + chunk - 1) / chunk, [&](int64_t i) {
      const int64_t start = i * chunk, n = std::min(chunk, count - start);
      if constexpr (sizeof(T) == 1)
        decode_.bytes(c_.kernels.packed, start, n, table, w.data() + start);
      else
        decode_.words(c_.kernels.packed, start, n, table, w.data() + start);
    });
    std::memset(w.data() + count, 0, kSlackBytes * sizeof(T));
    parallel_for(c_.threads, panels_, [&](int64_t panel) { weight_panel(panel, w.data()); });
  }

  void weight_panel(int64_t panel, const T* w) {
    const WinogradWeights& k = *kernels_.weights;
    T* const u = u_.data() + panel * kPositions * panel_;
    const int64_t first = panel * kPanel, outputs = std::min<int64_t>(kPanel, c_.outputs - first);
    const T* const from = w + first * 9 * c_.channels;
    if constexpr (sizeof(T) == 1) {
      if (c_.turned)
        k.turned_bytes(w, c_.channels, c_.outputs, first, panel_, u);
      else
        k.bytes(from, outputs, c_.channels, panel_, u);
      compensate(u, add_.data() + panel * 4 * kPanel);
    } else {
      if (c_.turned)
        k.turned_words(w, c_.channels, c_.outputs, first, panel_, u);
      else
        k.words(from, outputs, c_.channels, panel_, u);
    }
  }

  // The products see V - least, so least * sum U is missing in M: A^T (least * sum U) A is added to
  // the results.
  void compensate(const int8_t* u, int32_t* add) const {
    int32_t sums[kPositions][kPanel];
    for (int p = 0; p < kPositions; ++p)
      kernels_.weights->sums(u + p * panel_, groups_, sums[p]);
    static const int at[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
    for (int y = 0; y < 4; ++y)
      for (int o = 0; o < kPanel; ++o) {
        int64_t total = 0;
        for (int p = 0; p < kPositions; ++p)
          total += at[y / 2][p / 4] * at[y % 2][p % 4] * least_data(c_.image.range, p) * sums[p][o];
        add[y * kPanel + o] = int32_t(uint32_t(uint64_t(total)));
      }
  }

  void block(int64_t index, T* row_memory, T* v, int32_t* m) const {
    const int64_t all = c_.n * blocks_.tile_rows;
    const int64_t row0 = index / blocks_.across * blocks_.rows;
    const int64_t column0 = index % blocks_.across * blocks_.columns;
    const int64_t rows = std::min(blocks_.rows, all - row0);
    const int64_t columns = std::min(blocks_.columns, blocks_.tile_columns - column0);
    TileWindow<T, 4> window(image_, decode_, 2 * column0, 2 * columns + 2, row_memory);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t image = (row0 + r) / blocks_.tile_rows,
                    tile_row = (row0 + r) % blocks_.tile_rows;
      transform(window.at(image, tile_row), columns, v + r * columns * v_tile_);
    }
    for (int64_t panel = 0; panel < panels_; ++panel) {
      const T* const u = u_.data() + panel * kPositions * panel_;
      // A few tiles at a time, so that M stays in the L1 cache until it is transformed.
      for (int64_t t = 0; t < rows * columns; t += kPart) {
        const int64_t tiles = std::min(kPart, rows * columns - t);
        for (int p = 0; p < kPositions; ++p)
          multiply(p, up(tiles, kTileGroup), v + p * v_position_ + t * v_tile_, u + p * panel_,
                   m + p * kPartStride);
        for (int64_t done = 0; done < tiles;) {
          const int64_t r = (t + done) / columns, column = (t + done) % columns;
          const int64_t count = std::min(columns - column, tiles - done);
          finish(place(row0 + r, column0 + column), count, panel, m + done * kPanel);
          done += count;
        }
      }
    }
  }

  // The top left result of a tile.
  struct Place {
    int64_t image, y, x;
  };

  Place place(int64_t row, int64_t column) const {
    return {row / blocks_.tile_rows, 2 * (row % blocks_.tile_rows), 2 * column};
  }

  float* result(const Place& at, int64_t panel) const {
    return c_.out + ((at.image * out_height_ + at.y) * out_width_ + at.x) * c_.outputs +
           panel * kPanel;
  }

  void transform(const T* const* rows, int64_t tiles, T* v) const {
    if constexpr (sizeof(T) == 1)
      kernels_.data->bytes(rows, tiles, c_.channels, uint8_t(-least_data(c_.image.range, 5)),
                           uint8_t(-least_data(c_.image.range, 0)), v_tile_, v_position_,
                           reinterpret_cast<uint8_t*>(v));
    else
      kernels_.data->words(rows, tiles, c_.channels, v_tile_, v_position_, v);
  }

  void multiply(int position, int64_t tiles, const T* v, const T* u, int32_t* m) const {
    if constexpr (sizeof(T) == 1)
      kernels_.products->bytes(tiles, groups_, reinterpret_cast<const uint8_t*>(v), v_tile_, u,
                               flush_[position], m);
    else
      kernels_.products->words(tiles, groups_, v, v_tile_, u, m);
  }

  void finish(const Place& at, int64_t tiles, int64_t panel, const int32_t* m) const {
    const int64_t first = panel * kPanel;
    // Scale and bias are read 16 at a time, also by the last, shorter panel.
    float scale[kPanel] = {}, bias[kPanel] = {};
    const int64_t channels = std::min<int64_t>(kPanel, c_.outputs - first);
    std::memcpy(scale, c_.scale + (c_.scale_per_image ? at.image * c_.outputs : 0) + first,
                size_t(channels) * sizeof(float));
    if (c_.bias != nullptr) std::memcpy(bias, c_.bias + first, size_t(channels) * sizeof(float));
    WinogradEpilogue e{};
    e.add = add_.data() + panel * 4 * kPanel;
    e.scale = scale;
    e.bias = c_.bias != nullptr ? bias : nullptr;
    e.rows = std::min<int64_t>(2, out_height_ - at.y);
    e.columns = std::min(2 * tiles, out_width_ - at.x);
    e.channels = channels;
    e.row_stride = out_width_ * c_.outputs;
    e.pixel_stride = c_.outputs;
    e.stream = stream_;
    kernels_.results->output(m, kPartStride, tiles, e, result(at, panel));
  }

  const WinogradCorrelation& c_;
  const WinogradKernels& kernels_;
  const DecodeKernels& decode_;
  Image<T> image_;
  int64_t groups_, panel_, panels_, out_height_, out_width_;
  bool stream_;
  Array<T> u_;
  std::vector<int32_t> add_;
  Blocks blocks_;
  int64_t flush_[kPositions];
  int64_t v_tile_ = 0, v_position_ = 0;
};

} // namespace

void winograd_correlate(const WinogradCorrelation& c) {
  if (c.n == 0 || c.outputs == 0) return;
  switch (correlation_plan(c.image.range, c.kernels.range, c.channels)) {
  case Integers::bytes:
    return Correlation<int8_t>(c).run();
  case Integers::words:
    return Correlation<int16_t>(c).run();
  case Integers::refused:
    break;
  }
  throw std::invalid_argument("winograd: these ranges of integers do not fit (see `supports`)");
}

} // namespace nybble
