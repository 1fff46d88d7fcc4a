#include "quantize/streams.hpp"

namespace nybble {
namespace {

uint32_t absmax(const void* x, bool bf16, int64_t n) {
  uint32_t top = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t b = bf16 ? uint32_t(static_cast<const uint16_t*>(x)[i]) << 16
                            : static_cast<const uint32_t*>(x)[i];
    top = (b & 0x7fffffffu) > top ? b & 0x7fffffffu : top;
  }
  return top;
}

void random24(const RandomStream& s, int64_t start, int64_t n, int32_t* out) {
  for (int64_t i = start; i < start + n;) {
    const uint64_t b = uint64_t(i) / 4;
    uint32_t c[4] = {uint32_t(b), s.operand + uint32_t(b >> 32), s.call, s.place};
    uint32_t k0 = s.key0, k1 = s.key1;
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t(c[0]) * 0xD2511F53u, p1 = uint64_t(c[2]) * 0xCD9E8D57u;
      c[0] = uint32_t(p1 >> 32) ^ c[1] ^ k0;
      c[1] = uint32_t(p1);
      c[2] = uint32_t(p0 >> 32) ^ c[3] ^ k1;
      c[3] = uint32_t(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int64_t j = i % 4; j < 4 && i < start + n; ++j, ++i)
      *out++ = int32_t(c[j] >> 8);
  }
}

void transpose16(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t out_stride) {
  for (int64_t i = 0; i < 16; ++i)
    for (int64_t j = 0; j < 16; ++j)
      out[j * out_stride + i] = in[i * in_stride + j];
}

void pack4(const uint8_t* bytes, int64_t n, uint8_t* codes) {
  for (int64_t at = 0; at < n; at += 64)
    for (int64_t i = 0; i < 32; ++i)
      codes[at / 2 + i] = uint8_t(bytes[at + i] | bytes[at + i + 32] << 4);
}

} // namespace

void random24_across_generic(const RandomStream& s, int64_t start, int64_t step, int64_t rows,
                             int64_t n, int32_t* out) {
  int32_t run[64];
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < n; i += 64) {
      const int64_t count = n - i < 64 ? n - i : 64;
      random24(s, start + r * step + i, count, run);
      for (int64_t k = 0; k < count; ++k)
        out[(i + k) * rows + r] = run[k];
    }
}

uint64_t fingerprint_generic(const uint32_t* x, int64_t start, int64_t n) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < n; ++i)
    sum += uint64_t(int64_t(int32_t(x[i]))) * uint64_t(2 * (start + i) + 1);
  return sum;
}

const StreamKernels kStreamGeneric = {
    absmax, random24, random24_across_generic, fingerprint_generic, transpose16, pack4};

} // namespace nybble
