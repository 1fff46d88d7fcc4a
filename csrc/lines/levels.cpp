#include <cmath>

#include "lines/kernels.hpp"
#include "quantize/thresholds.hpp"

namespace nybble {
namespace {

bool is_mirrored(const LevelRule& rule) {
  for (int k = 0; k < 8; ++k)
    if (rule.levels[7 - k] != -rule.levels[8 + k]) return false;
  return mirrored_thresholds(rule.thresholds);
}

// Neighbours one apart, and a change of level wherever std::nearbyint has one.
bool is_whole(const LevelRule& rule) {
  if (rule.levels[0] != std::floor(rule.levels[0]) || !(std::fabs(rule.levels[0]) < 128.0f))
    return false;
  for (int k = 0; k < 15; ++k) {
    const float t = rule.thresholds[k], above = rule.levels[k] + 1.0f;
    if (std::isnan(t)) return k > 0;
    if (rule.levels[k + 1] != above || std::nearbyint(t) != above) return false;
    if (std::nearbyint(std::nextafter(t, -INFINITY)) != rule.levels[k]) return false;
  }
  return true;
}

} // namespace

LevelForm form_of(const LevelRule& rule) {
  if (is_mirrored(rule)) return LevelForm::Mirrored;
  return is_whole(rule) ? LevelForm::Whole : LevelForm::Any;
}

} // namespace nybble
