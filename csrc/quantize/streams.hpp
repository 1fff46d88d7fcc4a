// What surrounds packing: max|x|, random bits, bytes to nibbles and tiles of bytes transposed.
#pragma once

#include <cstdint>

namespace nybble {

// One Philox4x32 stream (quantizers/random.py): key and the words of the counter that do not count.
struct RandomStream {
  uint32_t key0, key1;
  uint32_t operand; // operand * 2^16
  uint32_t call, place;

  bool operator==(const RandomStream& o) const {
    return key0 == o.key0 && key1 == o.key1 && operand == o.operand && call == o.call &&
           place == o.place;
  }
};

struct StreamKernels {
  // bits of max|x|: above those of infinity if there is a NaN
  uint32_t (*absmax)(const void* x, bool bf16, int64_t n);
  // out[i] = the 24 bits of element start + i
  void (*random24)(const RandomStream&, int64_t start, int64_t n, int32_t* out);
  // out[i * rows + r] = the 24 bits of element start + r * step + i, i < n
  void (*random24_across)(const RandomStream&, int64_t start, int64_t step, int64_t rows, int64_t n,
                          int32_t* out);
  // sum over i < n of x[i] * (2 (start + i) + 1) modulo 2^64, x as signed 32-bit integers
  uint64_t (*fingerprint)(const uint32_t* x, int64_t start, int64_t n);
  // 16 x 16 bytes: out[j * out_stride + i] = in[i * in_stride + j]
  void (*transpose16)(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t out_stride);
  // bytes[0 .. n) -> nibbles in blocks; n a multiple of 64
  void (*pack4)(const uint8_t* bytes, int64_t n, uint8_t* codes);
};

void random24_across_generic(const RandomStream&, int64_t start, int64_t step, int64_t rows,
                             int64_t n, int32_t* out);
uint64_t fingerprint_generic(const uint32_t* x, int64_t start, int64_t n);

extern const StreamKernels kStreamGeneric;
extern const StreamKernels kStreamAvx2;

} // namespace nybble
