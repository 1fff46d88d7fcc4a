// The time loop of one direction of one recurrent layer; ops/reference/recurrent.py is its twin.
//
// Rows come step after step; step t has sizes[t] rows, the first ones of the batch, whose states
// are in `h` [batch, hidden] and `c` (LSTM). A step quantises h, multiplies it with the weights
// that are kept as panels, and applies the gates; the backward loop does the same with the gradient
// of the gates, and masks the gradient of h where the learned clip had stopped h.
#pragma once

#include <cstdint>

#include "recurrent/operand.hpp"
#include "recurrent/product.hpp"

namespace nybble {

enum class Cell { Tanh, Relu, Lstm, Gru };

struct SequenceShape {
  Cell cell;
  const int64_t* sizes;
  int64_t steps;
  bool reverse;
  int64_t hidden;
  int threads;

  int64_t wide() const { // columns of the results of the Gemm
    return (cell == Cell::Lstm ? 4 : cell == Cell::Gru ? 3 : 1) * hidden;
  }
  int64_t kept() const { return cell == Cell::Lstm || cell == Cell::Gru ? 4 * hidden : 0; }
};

struct ForwardData {
  const float* gx; // [rows, wide]
  float *h, *c;    // states, in and out
  float* y;        // [rows, hidden]
  // For backward, or null: gates [rows, kept], c before the step (LSTM), h before the step
  float *gates, *before, *multiplied;
};

void sequence_forward(const SequenceShape& shape, const StepRule& rule, StepProduct& product,
                      const ForwardData& data);

// The learned clip of h: mask bits and codes of all rows, and the side of each code.
struct Clip {
  const uint8_t* mask;  // null: there is none
  const uint8_t* codes; // null: the clip's gradient is not wanted
  int8_t sides[16];
  bool two_sided;
};

struct BackwardData {
  const float *y, *gates, *before; // as forward left them; y: tanh and relu only
  const float* dy;                 // [rows, hidden] or null
  float *dh, *dc;                  // of the states, in and out
  float *dgx, *dgh;                // [rows, wide]; the same memory but for the GRU
};

struct BackwardResult {
  uint32_t top = 0; // bits of max|dgh|
  float dalpha[2] = {0.0f, 0.0f};
};

BackwardResult sequence_backward(const SequenceShape& shape, const StepRule& rule,
                                 StepProduct& product, const Clip& clip, const BackwardData& data);

} // namespace nybble
