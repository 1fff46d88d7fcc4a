// What is known of 15 ascending thresholds, a rank being how many of them lie at or below y.
#pragma once

#include <cstdint>
#include <cstring>

namespace nybble {

// Whether 15 thresholds mirror each other at 0, which goes up.
inline bool mirrored_thresholds(const float* thresholds) {
  if (thresholds[7] != 0.0f) return false;
  for (int k = 0; k < 7; ++k) {
    uint32_t above, below;
    std::memcpy(&above, &thresholds[8 + k], 4);
    std::memcpy(&below, &thresholds[6 - k], 4);
    // y has passed the lower one where |y| has not reached the upper one.
    if (above == 0 || above > 0x7f800000u || below != (0x80000000u | (above - 1))) return false;
  }
  return true;
}

} // namespace nybble
