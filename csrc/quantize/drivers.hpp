// What the Python functions call: whole tensors, cut into tasks for the threads.
#pragma once

#include <cstdint>

#include "quantize/pack.hpp"
#include "quantize/streams.hpp"

namespace nybble {

// Element i is multiplied by values[(i / run) % count].
struct Factors {
  const float* values;
  int64_t count;
  int64_t run;
};

// The order of the random bits: element i of memory is element `index(i)` of the tensor in C order.
// A channels-last image has `channels` > 1 neighbours, each `pixels` apart in C order.
struct Order {
  int64_t channels = 1, pixels = 1;
};

struct Packed {
  uint32_t top = 0;   // bits of max|x|; above those of infinity if there is a NaN
  bool finite = true; // whether every fl(x * factor) is
};

struct Target {
  const void* x;
  bool bf16;
  int64_t n;
  uint8_t* codes;
  uint8_t* second; // null, or the codes of the second grid
  uint8_t* mask;   // null, or the bits of inside_low <= y <= inside_high
  float inside_low, inside_high;
};

Packed pack_integer(const Target& target, const Factors& factors, const IntegerRule& rule,
                    int threads);
Packed pack_log(const Target& target, const Factors& factors, const LogRule& rule, int threads);
Packed pack_thresholds(const Target& target, const Factors& factors, const ThresholdRule& rule,
                       int threads);
Packed pack_stochastic(const Target& target, const Factors& factors, const StochasticRule& rule,
                       const RandomStream& stream, const Order& order, int threads);

// out[r] = bits of max|x| over x[r * run .. (r + 1) * run)
void absmax(const void* x, bool bf16, int64_t rows, int64_t run, uint32_t* out, int threads);

void random24(const RandomStream& stream, int64_t n, int32_t* out, int threads);
// What nn/calls.py knows an input by: see streams.hpp.
uint64_t fingerprint(const float* x, int64_t n, int threads);
// The random bits of elements [begin, end) of memory, which lies in `order`.
void draw(const RandomStream& stream, const Order& order, int64_t begin, int64_t end, int32_t* out);

// The transpose of n matrices of codes, each rows x columns; one after the other, without gaps.
void relayout(const uint8_t* codes, int64_t n, int64_t rows, int64_t columns, uint8_t* out,
              int threads);

// Sums of `batch` rows of n elements in the order of quantizers/sums.py.
void tree_sums(const float* x, int64_t batch, int64_t n, float* out, int threads);
// The same of squares and magnitudes, and bits of the largest magnitude.
void moments(const float* x, int64_t batch, int64_t n, float* squares, float* magnitudes,
             uint32_t* top, int threads);
// sums.hpp's `masked` on n elements and the sums of what it leaves: out[0], and out[1] if
// `two_sided`; nothing is summed where `codes` is null.
void mask_gradient(float* dx, int64_t n, const uint8_t* mask, const uint8_t* codes,
                   const int8_t* sides, bool two_sided, float* out, int threads);

} // namespace nybble
