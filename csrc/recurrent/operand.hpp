// How a step's rows become codes: with a factor that all steps share, or a scale that is fitted to
// the step, to the whole of it or to each of its rows; rounded to nearest or at random.
//
//     Fixed   code = rule(x * factor)                       a learned clip, GradScale
//     Whole   factor = 1 / scale of the step                SAWB's moments, the largest magnitude
//     Rows    factor = 1 / scale of the row                 the largest magnitude
//     Best    the same                                      quantizers/scales/best.py
//
// Before all but Fixed, x may be multiplied by a number for each column, `fold` (rounded). The
// random bits are those of an element's place in the whole sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "lines/lines.hpp"
#include "quantize/drivers.hpp"
#include "quantize/fit.hpp"

namespace nybble {

struct StepRule {
  enum class Kind { Integer, Log, Thresholds, Stochastic } kind;
  IntegerRule integer;
  LogRule log;
  ThresholdRule thresholds;
  StochasticRule stochastic;
  RandomStream stream;
  float factor, multiplier; // of Fixed: integer * multiplier ~ x

  enum class Fit { Fixed, Whole, Rows, Best } fit;
  FitRule whole; // Whole and Rows: statistic, levels, coefficients
  BestOfTwo best;
  float unit;        // of the format: multiplier = scale * unit
  const float* fold; // null: nothing
};

// The codes of one step after the other, in memory for `rows` rows of n elements.
class StepOperand {
public:
  // products: whether an infinite x * factor makes a Fixed operand NaN, or only an infinite x.
  StepOperand(const StepRule& rule, int64_t rows, int64_t n, bool products, int threads);

  // Rows [first, first + count) of the sequence, which are at x.
  void pack(const float* x, int64_t first, int64_t count);

  const uint8_t* codes() const { return codes_.data(); }
  // Of row r: multipliers()[r * apart()]; NaN where the numbers were not finite.
  const float* multipliers() const { return multipliers_.data(); }
  int64_t apart() const { return by_row() ? 1 : 0; }
  uint32_t top() const { return top_; } // bits of max|x|, of Fixed to nearest alone

private:
  bool by_row() const {
    return rule_.fit == StepRule::Fit::Rows || rule_.fit == StepRule::Fit::Best;
  }
  void fit(const float* x, int64_t count);
  void fixed(const float* x, int64_t count);

  const StepRule& rule_;
  int64_t n_;
  bool products_;
  int threads_;
  uint32_t top_ = 0;
  std::vector<uint8_t> codes_;
  std::vector<float> folded_, scaled_, scales_, inverses_, multipliers_;
};

} // namespace nybble
