#include "recurrent/operand.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"

namespace nybble {
namespace {

constexpr int64_t kChunk = 1 << 11; // elements of a task: their random bits lie on the stack

constexpr uint32_t kInfinity = 0x7f800000u;

float number(uint32_t bits) {
  if (bits > kInfinity) return std::numeric_limits<float>::quiet_NaN();
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

} // namespace

StepOperand::StepOperand(const StepRule& rule, int64_t rows, int64_t n, bool products, int threads)
    : rule_(rule), n_(n), products_(products), threads_(threads),
      codes_(size_t((rows * n + 63) / 64 * 32)),
      multipliers_(size_t(rule.fit == StepRule::Fit::Rows || rule.fit == StepRule::Fit::Best
                              ? std::max<int64_t>(rows, 1)
                              : 1)) {
  const bool nearest = rule.kind != StepRule::Kind::Stochastic;
  if (rule.fit == StepRule::Fit::Fixed && nearest) return;
  scaled_.resize(size_t(rows * n));
  if (rule.fold != nullptr) folded_.resize(size_t(rows * n));
  scales_.resize(multipliers_.size());
  inverses_.resize(multipliers_.size());
}

void StepOperand::pack(const float* x, int64_t first, int64_t count) {
  const int64_t elements = count * n_;
  if (scaled_.empty()) return fixed(x, count);
  const LineKernels& lines = *active().lines;
  if (rule_.fold != nullptr) {
    for (int64_t r = 0; r < count; ++r)
      lines.scaled(x + r * n_, n_, {rule_.fold, 0.0f}, {nullptr, 1.0f}, folded_.data() + r * n_);
    x = folded_.data();
  }
  fit(x, count);
  const auto& quantize = *active().quantize;
  parallel_for(threads_, (elements + kChunk - 1) / kChunk, [&](int64_t i) {
    const int64_t begin = i * kChunk, end = std::min(begin + kChunk, elements);
    float* y = scaled_.data();
    for (int64_t at = begin; at < end;) {
      const int64_t row = at / n_, stop = std::min((row + 1) * n_, end);
      const float inverse = inverses_[size_t(by_row() ? row : 0)];
      lines.scaled(x + at, stop - at, {nullptr, inverse}, {nullptr, 1.0f}, y + at);
      at = stop;
    }
    int32_t random[kChunk];
    Piece piece{};
    piece.x = y + begin, piece.n = end - begin, piece.factor = 1.0f; // exact
    piece.codes = codes_.data() + begin / 2;
    switch (rule_.kind) {
    case StepRule::Kind::Integer:
      quantize.integer(piece, rule_.integer);
      break;
    case StepRule::Kind::Log:
      quantize.log(piece, rule_.log);
      break;
    case StepRule::Kind::Thresholds:
      quantize.thresholds(piece, rule_.thresholds);
      break;
    case StepRule::Kind::Stochastic:
      draw(rule_.stream, {}, first * n_ + begin, first * n_ + end, random);
      piece.random = random;
      quantize.stochastic(piece, rule_.stochastic);
    }
  });
}

// Scales, their inverses, and what the integers are multiplied by.
void StepOperand::fit(const float* x, int64_t count) {
  using Fit = StepRule::Fit;
  const int64_t groups = by_row() ? count : 1;
  if (rule_.fit == Fit::Best) {
    best_of_two(x, count, n_, rule_.best, scales_.data(), inverses_.data(), threads_);
  } else if (rule_.fit == Fit::Fixed) { // stochastic
    uint32_t top;
    absmax(x, false, 1, count * n_, &top, threads_);
    top_ = top;
    inverses_[0] = rule_.factor;
    multipliers_[0] = top < kInfinity ? rule_.multiplier : std::numeric_limits<float>::quiet_NaN();
    return;
  } else if (rule_.fit == Fit::Whole) {
    scales_[0] = scale_of(bound_of(x, count * n_, rule_.whole, threads_), rule_.whole.levels);
    inverses_[0] = 1.0f / scales_[0];
  } else {
    for (int64_t r = 0; r < count; ++r) {
      const uint32_t top = active().streams->absmax(x + r * n_, false, n_);
      scales_[size_t(r)] = scale_of(number(top), rule_.whole.levels);
      inverses_[size_t(r)] = 1.0f / scales_[size_t(r)];
    }
  }
  for (int64_t g = 0; g < groups; ++g)
    multipliers_[size_t(g)] =
        rule_.unit == 1.0f ? scales_[size_t(g)] : scales_[size_t(g)] * rule_.unit;
}

void StepOperand::fixed(const float* x, int64_t count) {
  const Target target{x, false, count * n_, codes_.data(), nullptr, nullptr, 0.0f, 0.0f};
  const Factors factors{&rule_.factor, 1, 1};
  Packed packed;
  if (rule_.kind == StepRule::Kind::Integer)
    packed = pack_integer(target, factors, rule_.integer, threads_);
  else if (rule_.kind == StepRule::Kind::Log)
    packed = pack_log(target, factors, rule_.log, threads_);
  else
    packed = pack_thresholds(target, factors, rule_.thresholds, threads_);
  top_ = packed.top;
  const bool good = products_ ? packed.finite : packed.top < kInfinity;
  multipliers_[0] = good ? rule_.multiplier : std::numeric_limits<float>::quiet_NaN();
}

} // namespace nybble
