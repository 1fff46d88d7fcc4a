// The loops of kernels.hpp over a type of lanes. Included by one file for each instruction set; the
// unnamed namespace keeps their instances apart. What whole registers leave is done by single
// lanes.
//
// `V` has kLanes, load, store, set, strided, store_strided, from24 (random * 2^-24), + - *, /, min,
// max, and
//     magnitude(x)       x without its sign            with_sign(m, x)   m with the sign of x
//     reached(x, t, d)   d where x >= t, else 0        below(x, t, d)    d where x < t, else 0
//     known(x, y, z)     y where x is a number, else z
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "blocks/kernels.hpp"
#include "core/lanes.hpp"

namespace nybble {
namespace {

inline Lane magnitude(Lane x) { return {std::fabs(x.v)}; }
inline Lane with_sign(Lane m, Lane x) { return {std::copysign(m.v, x.v)}; }
inline Lane reached(Lane x, Lane t, Lane d) { return {x.v >= t.v ? d.v : 0.0f}; }
inline Lane below(Lane x, Lane t, Lane d) { return {x.v < t.v ? d.v : 0.0f}; }
inline Lane known(Lane x, Lane y, Lane z) { return {x.v == x.v ? y.v : z.v}; }

// ---- rows ---------------------------------------------------------------------------------------

// y[j] = op(x[j] * factor[j / run], j), by registers where a run is one number or many registers.
template <class V, class Op, class One>
inline void each(const float* x, int64_t n, const float* factor, int64_t run, float* y,
                 const Op& op, const One& one) {
  if (run == 1) {
    int64_t j = 0;
    for (; j + V::kLanes <= n; j += V::kLanes)
      op(V::load(x + j) * V::load(factor + j), j).store(y + j);
    for (; j < n; ++j)
      one(Lane::load(x + j) * Lane::load(factor + j), j).store(y + j);
    return;
  }
  for (int64_t start = 0; start < n; start += run, ++factor) {
    const int64_t stop = std::min(start + run, n);
    const V by = V::set(*factor);
    int64_t j = start;
    for (; j + V::kLanes <= stop; j += V::kLanes)
      op(V::load(x + j) * by, j).store(y + j);
    for (; j < stop; ++j)
      one(Lane::load(x + j) * Lane::set(*factor), j).store(y + j);
  }
}

template <class V>
struct Nearest {
  V t[15], rise[15], low, nan;
  explicit Nearest(const NearestLevels& l) : low(V::set(l.low)), nan(V::set(l.nan)) {
    for (int k = 0; k < 15; ++k)
      t[k] = V::set(l.thresholds[k]), rise[k] = V::set(l.rise[k]);
  }
  inline V operator()(V y, int64_t) const {
    V level = low;
#pragma GCC unroll 15
    for (int k = 0; k < 15; ++k)
      level = level + reached(y, t[k], rise[k]);
    return known(y, level, nan);
  }
};

template <class V, int kLevels>
struct Drawn {
  V t[kLevels], rise[kLevels], widen[kLevels], low, gap, least, most, per_unit, nan, zero;
  const int32_t* random;
  Drawn(const StochasticLevels& l, const int32_t* random)
      : low(V::set(l.low)), gap(V::set(l.gap)), least(V::set(l.least)), most(V::set(l.most)),
        per_unit(V::set(l.per_unit)), nan(V::set(l.nan)), zero(V::set(0.0f)), random(random) {
    for (int k = 0; k < kLevels; ++k)
      t[k] = V::set(l.level[k]), rise[k] = V::set(l.rise[k]), widen[k] = V::set(l.widen[k]);
  }
  inline V operator()(V y, int64_t j) const {
    constexpr bool kMagnitude = kLevels == 7;
    const V given = kMagnitude ? magnitude(y) : y;
    const V m = max(min(given, most), least) * per_unit;
    V lo = low, width = gap;
#pragma GCC unroll 15
    for (int k = 0; k < kLevels; ++k) {
      lo = lo + reached(m, t[k], rise[k]);
      width = width + reached(m, t[k], widen[k]);
    }
    const V level = lo + below(V::from24(random + j), (m - lo) / width, width);
    // A sum with +0 makes a +0 of -0.
    return known(y, kMagnitude ? with_sign(level, y) + zero : level, nan);
  }
};

// ---- turns --------------------------------------------------------------------------------------

constexpr int64_t kMostLines = 64; // elements of a block that are worked on as registers of lines

// V::kLanes lines from `x`, element i of a line `step` behind the one before; the lines are
// neighbours or, with kApart, `apart` from one another. sign(i): of element i in each line.
template <class V, bool kApart, class Sign>
inline void turn_lines(const float* x, int64_t block, int64_t step, int64_t apart, bool has_signs,
                       Sign sign, float root, bool back, float* y) {
  V v[kMostLines];
  for (int64_t i = 0; i < block; ++i) {
    v[i] = kApart ? V::strided(x + i * step, apart) : V::load(x + i * step);
    if (has_signs && !back) v[i] = v[i] * sign(i);
  }
  for (int64_t width = 1; width < block; width *= 2)
    for (int64_t at = 0; at < block; at += 2 * width)
      for (int64_t i = at; i < at + width; ++i) {
        const V u = v[i], w = v[i + width];
        v[i] = u + w, v[i + width] = u - w;
      }
  for (int64_t i = 0; i < block; ++i) {
    const V by = V::set(root);
    const V out = v[i] * (has_signs && back ? sign(i) * by : by);
    if (kApart)
      out.store_strided(y + i * step, apart);
    else
      out.store(y + i * step);
  }
}

// A block of any size in place: copied, turned, multiplied. Element i has signs[i * sign_step].
inline void turn_line(const float* x, int64_t block, int64_t step, const float* signs,
                      int64_t sign_step, float root, bool back, float* y) {
  for (int64_t i = 0; i < block; ++i)
    y[i * step] = signs != nullptr && !back ? x[i * step] * signs[i * sign_step] : x[i * step];
  for (int64_t width = 1; width < block; width *= 2)
    for (int64_t at = 0; at < block; at += 2 * width)
      for (int64_t i = at; i < at + width; ++i) {
        const float u = y[i * step], w = y[(i + width) * step];
        y[i * step] = u + w, y[(i + width) * step] = u - w;
      }
  for (int64_t i = 0; i < block; ++i)
    y[i * step] *= signs != nullptr && back ? signs[i * sign_step] * root : root;
}

template <class V>
struct Loops {
  static void tops(const float* x, int64_t n, int64_t run, uint32_t* tops) {
    for (int64_t start = 0; start < n; start += run, ++tops) {
      const int64_t stop = std::min(start + run, n);
      uint32_t top = *tops;
      for (int64_t j = start; j < stop; ++j) {
        uint32_t b;
        std::memcpy(&b, x + j, 4);
        top = std::max(top, b & 0x7fffffffu);
      }
      *tops = top;
    }
  }

  static void scaled(const float* x, int64_t n, const float* scale, int64_t run, float* y) {
    const auto same = [](auto v, int64_t) { return v; };
    each<V>(x, n, scale, run, y, same, same);
  }

  static void nearest(const float* x, int64_t n, const float* inv, int64_t run,
                      const NearestLevels& levels, float* y) {
    each<V>(x, n, inv, run, y, Nearest<V>(levels), Nearest<Lane>(levels));
  }

  static void stochastic(const float* x, int64_t n, const float* inv, int64_t run,
                         const StochasticLevels& l, const int32_t* random, float* y) {
    if (l.magnitude)
      each<V>(x, n, inv, run, y, Drawn<V, 7>(l, random), Drawn<Lane, 7>(l, random));
    else
      each<V>(x, n, inv, run, y, Drawn<V, 15>(l, random), Drawn<Lane, 15>(l, random));
  }

  static void turn(const float* x, int64_t count, int64_t block, int64_t inner, const float* signs,
                   int64_t period, float root, bool back, float* y) {
    const int64_t whole = block * inner;
    const bool few = block <= kMostLines, has = signs != nullptr;
    int64_t b = 0;
    if (inner == 1) {
      float own[V::kLanes * kMostLines];
      for (; few && b + V::kLanes <= count; b += V::kLanes) {
        if (has)
          for (int l = 0; l < V::kLanes; ++l)
            std::copy_n(of(signs, (b + l) % period * block), block, own + l * block);
        const auto sign = [&](int64_t i) { return V::strided(own + i, block); };
        turn_lines<V, true>(x + b * block, block, 1, block, has, sign, root, back, y + b * block);
      }
    }
    for (; b < count; ++b) {
      const float* s = of(signs, b % period * block);
      const auto sign = [&](int64_t i) { return V::set(s[i]); };
      int64_t l = 0;
      for (; few && l + V::kLanes <= inner; l += V::kLanes) {
        const int64_t at = b * whole + l;
        turn_lines<V, false>(x + at, block, inner, 1, has, sign, root, back, y + at);
      }
      for (; l < inner; ++l)
        turn_line(x + b * whole + l, block, inner, s, 1, root, back, y + b * whole + l);
    }
  }

  static void turn_strided(const float* x, int64_t rows, int64_t length, int64_t block,
                           int64_t count, int64_t first, int64_t last, int64_t inner,
                           const float* signs, float root, bool back, float* y) {
    const int64_t step = count * inner;
    const bool few = block <= kMostLines, has = signs != nullptr;
    int64_t row = 0;
    if (inner == 1) {
      // Blocks beside one another are neighbours in memory; those that fill no register are taken
      // from several rows at once.
      const int64_t together = few ? first + (last - first) / V::kLanes * V::kLanes : first;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = first; j < together; j += V::kLanes) {
          const auto sign = [&](int64_t i) { return V::load(signs + i * count + j); };
          const int64_t at = r * length + j;
          turn_lines<V, false>(x + at, block, step, 1, has, sign, root, back, y + at);
        }
      first = together;
      for (; few && row + V::kLanes <= rows; row += V::kLanes)
        for (int64_t j = first; j < last; ++j) {
          const auto sign = [&](int64_t i) { return V::set(signs[i * count + j]); };
          const int64_t at = row * length + j;
          turn_lines<V, true>(x + at, block, step, length, has, sign, root, back, y + at);
        }
    }
    for (; row < rows; ++row)
      for (int64_t j = first; j < last; ++j) {
        const auto sign = [&](int64_t i) { return V::set(signs[i * count + j]); };
        int64_t l = 0;
        for (; few && l + V::kLanes <= inner; l += V::kLanes) {
          const int64_t at = row * length + j * inner + l;
          turn_lines<V, false>(x + at, block, step, 1, has, sign, root, back, y + at);
        }
        for (; l < inner; ++l) {
          const int64_t at = row * length + j * inner + l;
          turn_line(x + at, block, step, of(signs, j), count, root, back, y + at);
        }
      }
  }

  static const float* of(const float* signs, int64_t at) {
    return signs == nullptr ? nullptr : signs + at;
  }
};

} // namespace
} // namespace nybble
