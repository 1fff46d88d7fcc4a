// Batch normalisation and ReLU on channels-last float32 memory: the loops over elements.
//
// Values lie as [pixels, channels]. A range of elements is given in blocks of 64 (csrc/core/
// unpack.hpp has the layout of their codes); what belongs to a channel is read from arrays that
// repeat with a period of whole blocks: element e of the range has channel values [e % period].
//
// Every kernel does the same float operations in the same order for each element or channel in
// every instruction set; a comparison with NaN is false.
#pragma once

#include <cstdint>

namespace nybble {

// Float sums of one channel are carried over this many pixels, then added to doubles.
constexpr int64_t kFlush = 64;

struct RowKernels;

struct NormKernels {
  // sum[c] += x - shift[c], square[c] += (x - shift[c])^2 over `pixels` rows of `channels`, in
  // ascending order of rows; `work` has 2 * channels floats.
  void (*moments)(const float* x, const float* shift, int64_t pixels, int64_t channels, double* sum,
                  double* square, float* work);
  // y = x * scale + bias; v = floor(x * rate + start); code = v clipped to [first, 15] where y > 0
  // and to [0, first - 1] elsewhere; y = max(y, 0). With `relu` false: code = v clipped to [0, 15].
  // `values`: four rows (scale, bias, rate, start) of `period` numbers, then `first`.
  void (*normalise)(const float* x, int64_t blocks, const float* values, int64_t period,
                    int64_t phase, bool relu, float* y, uint8_t* packed);
  // With g = dy where code >= first, else 0: sum[c] += g, product[c] += g * code, over the rows
  // from..to - 1 in ascending order; `packed` is the whole array, dy too.
  void (*grad_sums)(const float* dy, const uint8_t* packed, const float* first, int64_t from,
                    int64_t to, int64_t channels, double* sum, double* product, float* work);
  // dx = (a * g + b * code) + d; `values`: rows a, b, d, first. dx may be dy.
  void (*grad_input)(const float* dy, const uint8_t* packed, int64_t blocks, const float* values,
                     int64_t period, int64_t phase, float* dx);
  // y = min(max(x, 0), top); bit = not (x <= 0 or x >= top), eight to a byte. top NaN: there is
  // none. y may be x.
  void (*relu)(const float* x, int64_t blocks, float top, float* y, uint8_t* bits);
  // dx = dy where the bit is set, else 0. dx may be dy.
  void (*relu_grad)(const float* dy, const uint8_t* bits, int64_t blocks, float* dx);
  const RowKernels* rows; // rows.hpp
};

extern const NormKernels kNormGeneric;
extern const NormKernels kNormAvx2;

} // namespace nybble
