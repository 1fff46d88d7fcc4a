#include "conv/gathered.hpp"

#include <algorithm>
#include <vector>

#include "conv/pack.hpp"
#include "conv/tile.hpp"
#include "conv/workers.hpp"
#include "core/dispatch.hpp"

namespace nybble {
namespace {

constexpr int64_t kChunkBytes = 512 << 10;  // decoded images at a time
constexpr int64_t kPanelsBytes = 192 << 10; // panels of a block of pixels
constexpr int64_t kLeastPanels = 4, kMostPanels = 32;

struct Context {
  const Mode& mode;
  const GemmKernels& gemm;
  const ConvKernels& conv;
  int64_t piece; // groups that an int32 sum may hold
  const ConvScales& scales;
};

// Rows of the product that a panel takes: where they start in the window and in the result, and
// the scales of their images.
struct PanelRows {
  const uint8_t* from[kRows];
  float* to[kRows];
  float scale[kRows];
  int count;
};

PanelRows rows_of(const Gathered& p, int64_t first, int64_t end, const uint8_t* images,
                  int64_t image_bytes, const ConvScales& scales, int64_t first_image, float* out,
                  int64_t out_image) {
  PanelRows rows;
  rows.count = int(std::min<int64_t>(kRows, end - first));
  int64_t image = first / p.pixels(), rest = first % p.pixels();
  int64_t y = rest / p.grid_w, x = rest % p.grid_w;
  for (int r = 0; r < rows.count; ++r) {
    rows.from[r] = images + image * image_bytes + y * p.step_h + x * p.step_w;
    rows.scale[r] = scales.row_at(first_image + image);
    rows.to[r] = out + image * out_image + p.out_offset + y * p.out_h + x * p.out_w;
    if (++x == p.grid_w) {
      x = 0;
      if (++y == p.grid_h) y = 0, ++image;
    }
  }
  for (int r = rows.count; r < kRows; ++r)
    rows.from[r] = rows.from[0], rows.to[r] = rows.to[0], rows.scale[r] = 0.0f;
  return rows;
}

void tile(const Context& c, const Gathered& p, int64_t panel, const uint8_t* a,
          const PanelRows& rows) {
  const uint8_t* b = p.panels.data() + panel * p.panel_bytes();
  const int64_t first = panel * kColumns;
  const int columns = int(std::min<int64_t>(kColumns, p.columns - first));
  const float* scale = p.scale.data() + first;
  const float* bias = p.bias.empty() ? nullptr : p.bias.data() + first;
  float* out[kRows];
  for (int r = 0; r < kRows; ++r)
    out[r] = rows.to[r] + first;
  alignas(64) int32_t acc[kTile];
  if (!p.start.empty()) {
    c.conv.start(p.start.data() + first, acc);
    multiply_tile(c.gemm, c.mode, true, p.groups, a, b, acc);
    finish_tile(c.conv, acc, rows.count, columns, rows.scale, scale, bias, out);
    return;
  }
  int64_t wide[kTile];
  for (int i = 0; i < kTile; ++i)
    wide[i] = p.correction[size_t(first + i % kColumns)];
  for (int64_t g = 0; g < p.groups; g += c.piece) {
    std::fill(acc, acc + kTile, 0);
    multiply_tile(c.gemm, c.mode, true, std::min(c.piece, p.groups - g), a + g * kRows * 4,
                  b + g * kColumns * 4, acc);
    for (int i = 0; i < kTile; ++i)
      wide[i] += acc[i];
  }
  finish_tile(wide, rows.count, columns, rows.scale, scale, bias, out);
}

// Pixels that no tap reaches: what a sum of 0 becomes.
void nothing(const Gathered& p, const PanelRows& rows) {
  for (int r = 0; r < rows.count; ++r)
    for (int64_t i = 0; i < p.columns; ++i) {
      const float value = 0.0f * (rows.scale[r] * p.scale[size_t(i)]);
      rows.to[r][i] = p.bias.empty() ? value : value + p.bias[size_t(i)];
    }
}

int64_t block_panels(const Gathered& p, int64_t images, int threads) {
  const int64_t fit = kPanelsBytes / std::max<int64_t>(1, p.groups * kRows * 4);
  const int64_t share = blocks_of(images * p.pixels(), kRows * int64_t(threads));
  return std::max<int64_t>(1, std::min({std::clamp(fit, kLeastPanels, kMostPanels), share}));
}

} // namespace

void Gathered::set_columns(int64_t count, const ConvScales& scales, int64_t first) {
  columns = count;
  const int64_t whole = column_panels() * kColumns;
  correction.assign(size_t(whole), 0);
  scale.assign(size_t(whole), 0.0f);
  for (int64_t i = 0; i < count; ++i)
    scale[size_t(i)] = scales.column_at(first + i);
  if (scales.bias != nullptr) {
    bias.assign(size_t(whole), 0.0f);
    std::copy(scales.bias + first, scales.bias + first + count, bias.begin());
  }
}

void multiply_gathered(std::vector<Gathered>& products, const ElementDecoder& decoder,
                       const Window& window, int64_t images, const Mode& mode,
                       const ConvScales& scales, ConvRun run, float* out, int64_t out_image) {
  if (images == 0) return;
  Context context{mode, *active().gemm, *active().conv, groups_within(mode, run.limit), scales};
  for (Gathered& p : products)
    if (p.groups <= context.piece) p.start.assign(p.correction.begin(), p.correction.end());
  const int threads = std::max(1, run.threads);
  const int64_t image_bytes = round_up(window.elements() * mode.size, 64);
  const int64_t chunk =
      std::clamp<int64_t>(kChunkBytes * threads / std::max<int64_t>(1, image_bytes), 1, images);
  const Buffer decoded(chunk * image_bytes);

  // One size of block for all products, so that products which write the same lines of the result
  // (phases, groups) meet in the cache.
  int64_t panels = kMostPanels, a_bytes = 0;
  for (const Gathered& p : products) {
    panels = std::min(panels, block_panels(p, chunk, threads));
    a_bytes = std::max(a_bytes, round_up(p.groups * kRows * 4, 64));
  }
  const int64_t block = panels * kRows, number = int64_t(products.size());
  std::vector<Buffer> scratch;
  std::vector<std::vector<PanelRows>> rows(static_cast<size_t>(threads));
  for (int t = 0; t < threads; ++t) {
    scratch.emplace_back(panels * a_bytes);
    rows[size_t(t)].resize(size_t(kMostPanels));
  }

  for (int64_t start = 0; start < images; start += chunk) {
    const int64_t n = std::min(chunk, images - start);
    parallel_for(threads, n, [&](int64_t i) {
      decode_window(decoder, window, start + i, decoded.data() + i * image_bytes);
    });
    int64_t blocks = 0;
    for (const Gathered& p : products)
      blocks = std::max(blocks, blocks_of(n * p.pixels(), block));
    for_workers(threads, blocks * number, [&](int64_t worker, int64_t item) {
      const Gathered& p = products[size_t(item % number)];
      const int64_t first = item / number * block, end = std::min(first + block, n * p.pixels());
      if (first >= end) return;
      const int64_t count = blocks_of(end - first, kRows);
      PanelRows* where = rows[size_t(worker)].data();
      uint8_t* a = scratch[size_t(worker)].data();
      for (int64_t i = 0; i < count; ++i) {
        where[i] = rows_of(p, first + i * kRows, end, decoded.data(), image_bytes, scales, start,
                           out + start * out_image, out_image);
        uint8_t* to = a + i * a_bytes;
        if (p.groups == 0) {
          nothing(p, where[i]);
          continue;
        }
        for (const Gathered::Run& r : p.runs) {
          const uint8_t* from[kRows];
          for (int j = 0; j < kRows; ++j)
            from[j] = where[i].from[j] + r.offset;
          context.conv.gather_rows(from, r.groups, to);
          to += r.groups * kRows * 4;
        }
      }
      if (p.groups == 0) return;
      for (int64_t panel = 0; panel < p.column_panels(); ++panel)
        for (int64_t i = 0; i < count; ++i)
          tile(context, p, panel, a + i * a_bytes, where[i]);
    });
  }
}

} // namespace nybble
