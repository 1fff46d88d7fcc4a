#include "gemm/panels.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/decode.hpp"
#include "core/dispatch.hpp"
#include "core/unpack.hpp"

namespace nybble {
namespace {

constexpr int64_t kBlock = int64_t(kBlockCodes);
constexpr int64_t kAlong = 256; // elements of a row decoded at a time, both kinds
constexpr int64_t kAcross = 32; // rows of a strided operand decoded at a time
constexpr int64_t kSlack = 64;  // bytes after a row that may be read, zeros
constexpr int64_t kRowCodes = (kAlong + 2 * (kBlock - 1)) / kBlock * kBlock;
constexpr int64_t kRowBytes = 2 * kRowCodes + kSlack; // words are the larger

static_assert(kColumns * kAlong * 2 + kSlack <= kAcross * kRowBytes, "rows of a panel");
static_assert(kColumns <= kAcross && kRows <= kAcross, "scratch has kAcross rows");
static_assert(kAlong >= std::lcm<int64_t>(kRows, kBlock) &&
                  kAlong >= std::lcm<int64_t>(kColumns, kBlock) && kAlong % 4 == 0,
              "whole panels and groups");

} // namespace

Source::Source(const Matrix& matrix, int64_t contraction, int64_t shift, int size)
    : matrix_(matrix), contraction_(contraction), size_(size), plus_(matrix.bits == 8) {
  const int codes = matrix.bits == 8 ? 256 : 16;
  for (int code = 0; code < codes; ++code) {
    int64_t value = matrix.table[code];
    value = std::min(std::max(value, matrix.bounds.low), matrix.bounds.high) - shift;
    words_[code] = int16_t(value);
    bytes_[code] = int8_t(uint8_t(value)); // 128..255 are an unsigned operand's
    plus_ = plus_ && uint8_t(bytes_[code]) == uint8_t(uint8_t(bytes_[0]) + code);
  }
}

int64_t Source::scratch_bytes() { return kAcross * kRowBytes; }

// Elements start, start + 1, ... and zeros after them; returns where in `scratch` they begin.
const uint8_t* Source::decode(int64_t start, int64_t count, uint8_t* scratch) const {
  uint8_t* from = scratch;
  if (matrix_.bits == 8) {
    const uint8_t* codes = matrix_.packed + start;
    if (size_ == 2) {
      auto* words = reinterpret_cast<int16_t*>(scratch);
      for (int64_t i = 0; i < count; ++i)
        words[i] = words_[codes[i]];
    } else if (plus_) {
      const uint8_t plus = uint8_t(bytes_[0]);
      for (int64_t i = 0; i < count; ++i)
        scratch[i] = uint8_t(codes[i] + plus);
    } else {
      for (int64_t i = 0; i < count; ++i)
        scratch[i] = uint8_t(bytes_[codes[i]]);
    }
  } else {
    const int64_t block = start / kBlock, before = start % kBlock;
    const int64_t blocks = (before + count + kBlock - 1) / kBlock;
    const uint8_t* packed = matrix_.packed + block * int64_t(kBlockBytes);
    const DecodeKernels& kernels = *active().decode;
    if (size_ == 2)
      kernels.words(packed, 0, blocks * kBlock, words_, reinterpret_cast<int16_t*>(scratch));
    else
      kernels.bytes(packed, 0, blocks * kBlock, bytes_, reinterpret_cast<int8_t*>(scratch));
    from += before * size_;
  }
  std::memset(scratch + (from - scratch) + count * size_, 0, kSlack);
  return from;
}

// Rows of a strided operand are too far apart for the CPU to foresee.
void Source::fetch(int64_t start, int64_t count) const {
#if defined(__GNUC__)
  const int shift = matrix_.bits == 8 ? 0 : 1;
  const int64_t last = (start + count - 1) >> shift;
  for (int64_t at = start >> shift; at < last; at += 64)
    __builtin_prefetch(matrix_.packed + at);
  __builtin_prefetch(matrix_.packed + last);
#else
  (void)start, (void)count;
#endif
}

void Source::gather(int64_t f0, int64_t free, int64_t k0, int64_t count, int width,
                    uint8_t* scratch, uint32_t* out, int64_t stride) const {
  const int group = 4 / size_;
  const uint8_t* rows[kAcross];
  // Short rows that fill their blocks: those of a panel are decoded in one go.
  const bool together = count == contraction_ && count <= kAlong && count % kBlock == 0;
  for (int64_t f = 0; f < free; f += width, out += stride) {
    const int present = int(std::min<int64_t>(width, free - f));
    if (together) {
      decode((f0 + f) * count, present * count, scratch);
      for (int r = 0; r < present; ++r)
        rows[r] = scratch + r * count * size_;
      active().gemm->panels->gather(rows, present, width, count / group, out);
      continue;
    }
    for (int64_t k = 0; k < count; k += kAlong) {
      const int64_t along = std::min(kAlong, count - k);
      for (int r = 0; r < present; ++r)
        rows[r] = decode((f0 + f + r) * contraction_ + k0 + k, along, scratch + r * kRowBytes);
      active().gemm->panels->gather(rows, present, width, (along + group - 1) / group,
                                    out + k / group * width);
    }
  }
}

void Source::weave(int64_t f0, int64_t free, int64_t k0, int64_t count, int width, uint8_t* scratch,
                   uint32_t* out, int64_t stride) const {
  static const uint8_t zeros[kRowBytes] = {};
  const int group = 4 / size_;
  // Whole panels, and whole blocks where rows begin on one.
  const int64_t lcm = std::lcm<int64_t>(width, kBlock);
  const int64_t step = kAlong / lcm * lcm;
  const uint8_t* rows[kAcross];
  for (int64_t k = 0; k < count; k += kAcross) {
    const int64_t across = std::min(kAcross, count - k);
    const int64_t groups = (across + group - 1) / group;
    for (int64_t f = 0; f < free; f += step) {
      const int64_t along = std::min(step, free - f);
      for (int64_t i = k + kAcross; i < std::min(k + 2 * kAcross, count); ++i)
        fetch((k0 + i) * matrix_.free + f0 + f, along);
      for (int64_t i = 0; i < groups * group; ++i)
        rows[i] = i < across
                      ? decode((k0 + k + i) * matrix_.free + f0 + f, along, scratch + i * kRowBytes)
                      : zeros;
      for (int64_t c = 0; c < along; c += width)
        active().gemm->panels->weave(rows, c * size_, size_, width, groups,
                                     out + (f + c) / width * stride + k / group * width);
    }
  }
}

void Source::pack(int64_t f0, int64_t free, int64_t k0, int64_t count, int width, uint8_t* scratch,
                  uint32_t* out, int64_t stride) const {
  if (matrix_.contiguous)
    gather(f0, free, k0, count, width, scratch, out, stride);
  else
    weave(f0, free, k0, count, width, scratch, out, stride);
}

} // namespace nybble
