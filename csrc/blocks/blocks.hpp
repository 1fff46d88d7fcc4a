// What the Python functions call: tensors whose scale follows blocks along a dimension.
#pragma once

#include <cstdint>

#include "blocks/kernels.hpp"
#include "quantize/drivers.hpp"

namespace nybble {

constexpr int kMostDims = 6;

// A tensor in the order of its memory. Along dimension d, `block[d]` neighbours share a number of
// the scales, which lie in the same order and have ceil(size[d] / block[d]) numbers along d.
struct Grid {
  int dims;
  int64_t size[kMostDims];
  int64_t block[kMostDims];

  int64_t elements() const;
  int64_t scales() const;
};

// tops = bits of max|x| of every block
void block_tops(const float* x, const Grid& grid, uint32_t* tops, int threads);
// y = x * scale
void scale_blocks(const float* x, const Grid& grid, const float* scale, float* y, int threads);
// y = the levels of x * inv, as integers
void round_nearest(const float* x, const Grid& grid, const float* inv, const NearestLevels& levels,
                   float* y, int threads);
// The random bits are those of elements first, first + 1, .. in `order`.
void round_stochastic(const float* x, const Grid& grid, const float* inv,
                      const StochasticLevels& levels, const RandomStream& stream, int64_t first,
                      const Order& order, float* y, int threads);

// The Hadamard of quantizers/transforms.py along the middle dimension of [outer, groups x size,
// inner]; `signs`: `size` numbers, or null. strided: each block spans the whole line.
struct Turn {
  int64_t outer, groups, size, inner;
  int64_t block;
  const float* signs;
  bool back, strided;
};
void hadamard(const float* x, const Turn& turn, float* y, int threads);

} // namespace nybble
