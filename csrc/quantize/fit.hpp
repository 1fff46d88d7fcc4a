// The scale of a tensor and its codes in one call:
// quantizers/scales/{arithmetic,pact,sawb,absmax}.py in the same float32 operations, one rounding
// each, for one scale a tensor and integer formats.
#pragma once

#include <cstdint>

#include "quantize/drivers.hpp"

namespace nybble {

enum class Statistic : int32_t {
  Clip = 0,   // PACT: a learned clip
  Sawb = 1,   // the first two moments
  AbsMax = 2, // max|x|
};

// The bytes of ops/native/rules.py's fit_rule.
struct FitRule {
  int32_t statistic;
  float levels; // what the bound becomes
  float c1, c2; // SAWB's coefficients
  float unit;   // of the format
  int32_t low, high, bits;
};

// max(fl(bound / levels), 2^-126); 1 for a bound of 0, NaN for one that is not finite.
float scale_of(float bound, float levels);

// SAWB's clip from the sums of squares and magnitudes and the largest magnitude of n elements.
float sawb_bound(float squares, float magnitudes, float largest, int64_t n, float c1, float c2);

// The magnitude that the largest level stands for, by the rule's statistic (not a clip) of n
// numbers; NaN where one is not finite.
float bound_of(const float* x, int64_t n, const FitRule& rule, int threads);

// Packs target.x (float32) and returns the multiplier fl(scale * unit), NaN where x or the clip is
// not finite. `clip`: for Statistic::Clip only.
float quantize_integer(Target target, const FitRule& rule, float clip, int threads);

} // namespace nybble
