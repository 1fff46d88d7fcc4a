// Packing a tensor: chunks of whole blocks for the threads, and factors that change inside a block.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/dispatch.hpp"
#include "core/parallel.hpp"
#include "quantize/drivers.hpp"

namespace nybble {
namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kChunk = 1 << 15; // elements of a task
constexpr int64_t kDrawn = 1 << 13; // with random bits, which lie on the stack
constexpr uint32_t kInfinity = 0x7f800000u;

float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

uint32_t as_bits(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  return b;
}

float load(const Target& t, int64_t i) {
  if (!t.bf16) return static_cast<const float*>(t.x)[i];
  return as_float(uint32_t(static_cast<const uint16_t*>(t.x)[i]) << 16);
}

void join(Packed& all, const Packed& part) {
  all.top = std::max(all.top, part.top);
  all.finite = all.finite && part.finite;
}

template <class Rule>
using Kernel = uint32_t (*)(const Piece&, const Rule&);

// Packs elements [begin, end) of the target; begin is a multiple of 64, and so is end unless it is
// the last. `random`: bits of the elements from begin on, or null.
template <class Rule>
struct Span {
  const Target& t;
  const Factors& factors;
  const Rule& rule;
  Kernel<Rule> kernel;
  const int32_t* random;
  int64_t begin;

  Packed piece(const void* x, bool bf16, int64_t at, int64_t n, float factor) const {
    Piece p;
    p.x = x, p.bf16 = bf16, p.n = n, p.factor = factor;
    p.random = random == nullptr ? nullptr : random + (at - begin);
    p.codes = t.codes + at / 2;
    p.second = t.second == nullptr ? nullptr : t.second + at / 2;
    p.mask = t.mask == nullptr ? nullptr : t.mask + at / 8;
    p.inside_low = t.inside_low, p.inside_high = t.inside_high;
    Packed out;
    out.top = kernel(p, rule);
    // Rounding is monotone: all products are finite if the largest one is.
    out.finite = n == 0 || (as_bits(as_float(out.top) * factor) & 0x7fffffffu) < kInfinity;
    return out;
  }

  Packed whole(int64_t at, int64_t n, float factor) const {
    const char* x = static_cast<const char*>(t.x) + at * (t.bf16 ? 2 : 4);
    return piece(x, t.bf16, at, n, factor);
  }

  Packed run(int64_t end) const {
    if (factors.count == 1) return whole(begin, end - begin, factors.values[0]);
    Packed all;
    for (int64_t at = begin; at < end;) {
      const int64_t row = at / factors.run;
      const int64_t limit = std::min((row + 1) * factors.run, end);
      const int64_t n = limit == end ? end - at : (limit - at) / kBlock * kBlock;
      if (n > 0) {
        join(all, whole(at, n, factors.values[row % factors.count]));
        at += n;
      } else {
        const int64_t count = std::min(kBlock, end - at);
        join(all, mixed(at, count));
        at += count;
      }
    }
    return all;
  }

  // A block in which the factor changes: multiplied here, and by 1 in the kernel, which is exact.
  Packed mixed(int64_t at, int64_t count) const {
    float y[kBlock];
    uint32_t top = 0;
    for (int64_t i = 0; i < count;) {
      const int64_t row = (at + i) / factors.run;
      const float factor = factors.values[row % factors.count];
      const int64_t stop = std::min((row + 1) * factors.run - at, count);
      for (; i < stop; ++i) {
        const float x = load(t, at + i);
        top = std::max(top, as_bits(x) & 0x7fffffffu);
        y[i] = x * factor;
      }
    }
    Packed out = piece(y, false, at, count, 1.0f);
    out.top = top;
    return out;
  }
};

template <class Body>
Packed chunks(int64_t n, int64_t size, int threads, const Body& body) {
  const int64_t items = (n + size - 1) / size;
  std::vector<Packed> parts(static_cast<size_t>(items));
  parallel_for(threads, items,
               [&](int64_t i) { parts[size_t(i)] = body(i * size, std::min((i + 1) * size, n)); });
  Packed all;
  for (const Packed& part : parts)
    join(all, part);
  return all;
}

template <class Rule>
Packed pack(const Target& t, const Factors& factors, const Rule& rule, Kernel<Rule> kernel,
            int threads) {
  return chunks(t.n, kChunk, threads, [&](int64_t begin, int64_t end) {
    return Span<Rule>{t, factors, rule, kernel, nullptr, begin}.run(end);
  });
}

} // namespace

Packed pack_integer(const Target& target, const Factors& factors, const IntegerRule& rule,
                    int threads) {
  return pack(target, factors, rule, active().quantize->integer, threads);
}

Packed pack_log(const Target& target, const Factors& factors, const LogRule& rule, int threads) {
  return pack(target, factors, rule, active().quantize->log, threads);
}

Packed pack_thresholds(const Target& target, const Factors& factors, const ThresholdRule& rule,
                       int threads) {
  return pack(target, factors, rule, active().quantize->thresholds, threads);
}

Packed pack_stochastic(const Target& target, const Factors& factors, const StochasticRule& rule,
                       const RandomStream& stream, const Order& order, int threads) {
  const auto kernel = active().quantize->stochastic;
  return chunks(target.n, kDrawn, threads, [&](int64_t begin, int64_t end) {
    int32_t random[kDrawn];
    draw(stream, order, begin, end, random);
    return Span<StochasticRule>{target, factors, rule, kernel, random, begin}.run(end);
  });
}

void absmax(const void* x, bool bf16, int64_t rows, int64_t run, uint32_t* out, int threads) {
  const auto kernel = active().streams->absmax;
  const auto* bytes = static_cast<const char*>(x);
  const int64_t width = bf16 ? 2 : 4;
  if (rows == 1) {
    out[0] = chunks(run, kChunk, threads, [&](int64_t begin, int64_t end) {
               return Packed{kernel(bytes + begin * width, bf16, end - begin), true};
             }).top;
    return;
  }
  const int64_t together = std::max<int64_t>(1, kChunk / std::max<int64_t>(run, 1));
  parallel_for(threads, (rows + together - 1) / together, [&](int64_t item) {
    const int64_t last = std::min((item + 1) * together, rows);
    for (int64_t row = item * together; row < last; ++row)
      out[row] = kernel(bytes + row * run * width, bf16, run);
  });
}

} // namespace nybble
