// Convolutions whose groups have one input channel: no Gemm, but a product channel by channel.
//
//     y[p, o]   = sum over taps of x[p + tap, o / m] * w[o, tap]        m outputs an input channel
//     dx[p, c]  = sum over the m outputs o of c, and taps, of g[p + tap, o] * w[o, tap]
//     dw[o, t]  = sum over pixels of g[p, o] * x[p + t, o / m]
//
// Words throughout, kColumns channels at a time, two taps (or two pixels) in one multiply-add; x is
// repeated m times when it is decoded. `depthwise` says whether the int32 sums of the first two fit
// (else the general product takes the shape); dw's are emptied into int64 as there.
#pragma once

#include "conv/mode.hpp"
#include "conv/shape.hpp"

namespace nybble {

bool depthwise(const ConvShape& s, const ConvOperand& a, const ConvOperand& b, ConvRun run);

void depthwise_output(const ConvShape& s, const ConvOperand& x, const ConvOperand& w,
                      const ConvScales& scales, ConvRun run, float* out);
void depthwise_grad_input(const ConvShape& s, const ConvOperand& g, const ConvOperand& w,
                          const ConvScales& scales, ConvRun run, float* out);
void depthwise_grad_weight(const ConvShape& s, const ConvOperand& g, const ConvOperand& x,
                           const ConvScales& scales, ConvRun run, float* out);

} // namespace nybble
