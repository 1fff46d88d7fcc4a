// How a flat array is cut into work items, and what a channel's values look like for a kernel.
#pragma once

#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/parallel.hpp"

namespace nybble {

constexpr int64_t kItemBlocks = 1024; // 64 k values

// body(first block, blocks) for every item of the whole blocks of `count` values.
template <class Body>
void for_blocks(int64_t count, int threads, const Body& body) {
  const int64_t blocks = count / 64, items = (blocks + kItemBlocks - 1) / kItemBlocks;
  parallel_for(threads, items, [&](int64_t i) {
    const int64_t at = i * kItemBlocks;
    body(at, blocks - at < kItemBlocks ? blocks - at : kItemBlocks);
  });
}

// The values behind the last whole block, in a block of their own that is filled up with 0.
struct Tail {
  int64_t at, count;
  float in[64], out[64];
  Tail(const float* x, int64_t all) : at(all / 64 * 64), count(all % 64), in{}, out{} {
    if (count > 0) std::memcpy(in, x + at, size_t(count) * sizeof(float));
  }
  void store(float* y) const { std::memcpy(y + at, out, size_t(count) * sizeof(float)); }
};

// Sets the codes of a block that are not among the first `count` to 0.
inline void clear_codes(uint8_t* codes, int64_t count) {
  for (int64_t i = count; i < 64; ++i)
    codes[i % 32] &= i < 32 ? 0xf0 : 0x0f;
}

// Rows of per-channel values, repeated to a period of whole blocks of 64.
class Periodic {
public:
  Periodic(int64_t channels, int rows)
      : channels_(channels), period_(channels / std::gcd(channels, int64_t(64)) * 64),
        values_(size_t(period_ * rows)) {}
  float& at(int row, int64_t c) { return values_[size_t(row * period_ + c)]; }
  // Call after the first `channels` values of every row are set.
  void repeat() {
    for (size_t row = 0; row < values_.size(); row += size_t(period_))
      for (int64_t e = channels_; e < period_; ++e)
        values_[row + size_t(e)] = values_[row + size_t(e - channels_)];
  }
  const float* data() const { return values_.data(); }
  int64_t period() const { return period_; }
  int64_t phase(int64_t block) const { return block * 64 % period_; }

private:
  int64_t channels_, period_;
  std::vector<float> values_;
};

// Sums over pixels of two quantities a channel, chunk by chunk; see norm.hpp for the order.
class ChannelSums {
public:
  // `work`: floats a channel that a chunk may use.
  ChannelSums(int64_t pixels, int64_t channels, int work = 2)
      : pixels_(pixels), channels_(channels), rows_((65536 / channels + 63) / 64 * 64),
        chunks_((pixels + rows_ - 1) / rows_), parts_(size_t(2 * chunks_ * channels)),
        work_(size_t(work * chunks_ * channels)), each_(work * channels) {}

  // body(from, to, first sums, second sums, work) adds one chunk; returns the totals, two rows.
  template <class Body>
  std::vector<double> add(int threads, const Body& body) {
    std::fill(parts_.begin(), parts_.end(), 0.0);
    parallel_for(threads, chunks_, [&](int64_t i) {
      const int64_t from = i * rows_, to = from + rows_ < pixels_ ? from + rows_ : pixels_;
      double* sums = parts_.data() + 2 * i * channels_;
      body(from, to, sums, sums + channels_, work_.data() + i * each_);
    });
    std::vector<double> total(size_t(2 * channels_));
    for (int64_t i = 0; i < chunks_; ++i)
      for (int64_t c = 0; c < 2 * channels_; ++c)
        total[size_t(c)] += parts_[size_t(2 * i * channels_ + c)];
    return total;
  }

private:
  int64_t pixels_, channels_, rows_, chunks_;
  std::vector<double> parts_;
  std::vector<float> work_;
  int64_t each_;
};

} // namespace nybble
