#include "gemm/plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/dispatch.hpp"

namespace nybble {
namespace {

int64_t magnitude(Bounds x) { return std::max(-x.low, x.high); }

// Groups between widenings with `u` unsigned and `s` signed; 0 where the bytes do not hold them.
int64_t flush_of(Bounds u, Bounds s) {
  const int64_t top = u.high - u.low;
  if (top > 255 || s.low < -128 || s.high > 127) return 0;
  if (!active().gemm->saturates) return int64_t(1) << 30;
  return 32767 / std::max<int64_t>(2 * top * magnitude(s), 1);
}

} // namespace

Plan make_plan(Bounds a, Bounds b, int64_t limit) {
  if (magnitude(a) > 32767 || magnitude(b) > 32767)
    throw std::invalid_argument("gemm: integers beyond +-32767: " +
                                std::to_string(std::max(magnitude(a), magnitude(b))));
  Plan plan{Multiply::S16, 0, 0, 0, 0};
  int64_t product = magnitude(a) * magnitude(b);
  // Beyond some 64 groups a longer stretch gains less than a missing compensation does.
  const int64_t first = flush_of(a, b), second = flush_of(b, a);
  const int64_t worth_first = 2 * std::min<int64_t>(first, 64) + (a.low == 0);
  const int64_t worth_second = 2 * std::min<int64_t>(second, 64) + (b.low == 0);
  if (std::max(first, second) >= kLeastFlush) {
    if (worth_first >= worth_second) {
      plan = {Multiply::U8S8, first, a.low, 0, 0};
      product = (a.high - a.low) * magnitude(b);
    } else {
      plan = {Multiply::S8U8, second, 0, b.low, 0};
      product = (b.high - b.low) * magnitude(a);
    }
  }
  plan.cut = limit / std::max<int64_t>(product, 1) / plan.group() * plan.group();
  if (plan.cut < plan.group())
    throw std::invalid_argument("gemm: the limit " + std::to_string(limit) +
                                " is below one group of products");
  return plan;
}

} // namespace nybble
