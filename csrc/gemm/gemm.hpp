// Products of two operands in packed codes, float32 out.
//
//     out = float32(op(a) @ op(b)) * (scale_a * scale_b) [+ bias]          gemm
//     out = sum over blocks of float32(block) * (scale_a * scale_b)        block_gemm
//
// The sums are exact for every input: plan.hpp chooses kernels by bounds, and contractions that
// int32 could not hold are added in int64. Results do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "gemm/panels.hpp"

namespace nybble {

// One number (count 1), one for each row or column, or absent (count 0).
struct Vector {
  const float* at;
  int64_t count;
};

struct Product {
  int64_t m, n, k;
  Matrix a, b; // a: free = m; b: free = n
  float* out;  // [m, n], row by row
  int threads;
  int64_t limit; // of the int32 sums, see plan.hpp
};

void gemm(const Product& product, Vector scale_a, Vector scale_b, Vector bias);

// `count` products of one shape; the next one's operands and result lie so many bytes (floats)
// behind. One scale an operand. The products are shared by the threads.
struct Batch {
  Product first;
  int64_t count;
  int64_t a_step, b_step, out_step;
};

void gemm_batch(const Batch& batch, Vector scale_a, Vector scale_b);

// scale(free, block) = at[free * along_free + block * along_block]
struct BlockScales {
  const float* at;
  int64_t along_free, along_block;
};

// The contraction in blocks of `block` elements, the last one maybe shorter. Throws
// std::invalid_argument where a block's sum could leave int32.
void block_gemm(const Product& product, int64_t block, BlockScales scale_a, BlockScales scale_b);

// out[i] = shift * the sum of column i of a panel of signed bytes
void compensate(const uint32_t* panel, int width, int64_t groups, int64_t shift, int32_t* out);

// The micro kernel of a plan, on panels.
void multiply(const Plan& plan, int64_t groups, const uint32_t* a, const uint32_t* b, int32_t* acc);

} // namespace nybble
