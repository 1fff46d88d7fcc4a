// The formulas of gates.hpp over a type of lanes. Included by one file for each instruction set;
// the unnamed namespace keeps their instances apart.
//
// `V` has kLanes, load, store, set, + - * / and min, max that return the second argument where one
// is NaN (as vminps does), and positive(x, y): y where x > 0, else 0.
#pragma once

#include <cstdint>

#include "core/lanes.hpp"

namespace nybble {
namespace {

inline Lane positive(Lane x, Lane y) { return {x.v > 0.0f ? y.v : 0.0f}; }

// From tools/tanh.py, as in ops/reference/gates.py.
constexpr float kLimit = 9.0f;
constexpr float kP[5] = {1.0f, 0.1338031142950058f, 0.003494751174002886f, 2.0595960450009443e-05f,
                         1.3337880133690305e-08f};
constexpr float kQ[5] = {1.0f, 0.46713629364967346f, 0.025873765349388123f, 0.0003284292761236429f,
                         7.76938691160467e-07f};

template <class V>
inline V horner(V s, const float* c) {
  V total = s * V::set(c[4]);
  for (int i = 3; i > 0; --i)
    total = (total + V::set(c[i])) * s;
  return total + V::set(c[0]);
}

template <class V>
inline V tanh_of(V in) {
  const V x = max(V::set(-kLimit), min(V::set(kLimit), in));
  const V s = x * x;
  const V result = horner(s, kP) * x / horner(s, kQ);
  return max(V::set(-1.0f), min(V::set(1.0f), result));
}

template <class V>
inline V sigmoid_of(V x) {
  const V half = V::set(0.5f);
  return tanh_of(x * half) * half + half;
}

template <class V>
inline V one_less(V x) {
  return V::set(1.0f) - x;
}

template <class V>
inline void lstm_at(int64_t n, int64_t j, const float* gx, const float* gh, float* gates, float* c,
                    float* h) {
  const V i = sigmoid_of(V::load(gx + j) + V::load(gh + j));
  const V f = sigmoid_of(V::load(gx + n + j) + V::load(gh + n + j));
  const V g = tanh_of(V::load(gx + 2 * n + j) + V::load(gh + 2 * n + j)) + V::set(0.0f);
  const V o = sigmoid_of(V::load(gx + 3 * n + j) + V::load(gh + 3 * n + j));
  i.store(gates + j), f.store(gates + n + j), g.store(gates + 2 * n + j);
  o.store(gates + 3 * n + j);
  const V cell = f * V::load(c + j) + i * g;
  cell.store(c + j);
  (tanh_of(cell) * o).store(h + j);
}

template <class V>
inline void lstm_grad_at(int64_t n, int64_t j, const float* gates, const float* before,
                         const float* dh, float* dc, float* dz) {
  const V i = V::load(gates + j), f = V::load(gates + n + j);
  const V g = V::load(gates + 2 * n + j), o = V::load(gates + 3 * n + j);
  const V c = V::load(before + j), d = V::load(dh + j);
  const V t = tanh_of(f * c + i * g);
  const V cell = one_less(t * t) * (d * o) + V::load(dc + j);
  ((cell * g) * (one_less(i) * i)).store(dz + j);
  ((cell * c) * (one_less(f) * f)).store(dz + n + j);
  ((cell * i) * one_less(g * g)).store(dz + 2 * n + j);
  ((d * t) * (one_less(o) * o)).store(dz + 3 * n + j);
  (cell * f).store(dc + j);
}

template <class V>
inline void gru_at(int64_t n, int64_t j, const float* gx, const float* gh, const float* h,
                   float* gates, float* out) {
  const V r = sigmoid_of(V::load(gx + j) + V::load(gh + j));
  const V z = sigmoid_of(V::load(gx + n + j) + V::load(gh + n + j));
  const V hidden = V::load(gh + 2 * n + j);
  const V m = tanh_of(r * hidden + V::load(gx + 2 * n + j));
  r.store(gates + j), z.store(gates + n + j), m.store(gates + 2 * n + j);
  hidden.store(gates + 3 * n + j);
  ((V::load(h + j) - m) * z + m).store(out + j);
}

template <class V>
inline void gru_grad_at(int64_t n, int64_t j, const float* gates, const float* before,
                        const float* dh, float* dgx, float* dgh, float* direct) {
  const V r = V::load(gates + j), z = V::load(gates + n + j);
  const V m = V::load(gates + 2 * n + j), hidden = V::load(gates + 3 * n + j);
  const V h = V::load(before + j), d = V::load(dh + j);
  const V dm = one_less(z) * d * one_less(m * m);
  const V dr = (dm * hidden) * (one_less(r) * r);
  const V du = ((h - m) * d) * (one_less(z) * z);
  dr.store(dgx + j), du.store(dgx + n + j), dm.store(dgx + 2 * n + j);
  dr.store(dgh + j), du.store(dgh + n + j), (dm * r).store(dgh + 2 * n + j);
  (d * z).store(direct + j);
}

template <class V>
inline void plain_at(int64_t j, bool relu, const float* gx, const float* gh, float* h) {
  const V sum = V::load(gh + j) + V::load(gx + j), zero = V::set(0.0f);
  (relu ? max(zero, sum) + zero : tanh_of(sum)).store(h + j);
}

template <class V>
inline void plain_grad_at(int64_t j, bool relu, const float* after, const float* dh, float* dz) {
  const V h = V::load(after + j), d = V::load(dh + j);
  (relu ? positive(h, d) : d * one_less(h * h)).store(dz + j);
}

// body(type of lanes, index) over n units: whole registers, then one by one.
template <class V, class Body>
inline void over(int64_t n, const Body& body) {
  int64_t j = 0;
  for (; j + V::kLanes <= n; j += V::kLanes)
    body(V{}, j);
  for (; j < n; ++j)
    body(Lane{}, j);
}

template <class V>
struct Loops {
  static void lstm(int64_t n, const float* gx, const float* gh, float* gates, float* c, float* h) {
    over<V>(n, [=](auto v, int64_t j) { lstm_at<decltype(v)>(n, j, gx, gh, gates, c, h); });
  }
  static void lstm_grad(int64_t n, const float* gates, const float* c, const float* dh, float* dc,
                        float* dz) {
    over<V>(n, [=](auto v, int64_t j) { lstm_grad_at<decltype(v)>(n, j, gates, c, dh, dc, dz); });
  }
  static void gru(int64_t n, const float* gx, const float* gh, const float* h, float* gates,
                  float* out) {
    over<V>(n, [=](auto v, int64_t j) { gru_at<decltype(v)>(n, j, gx, gh, h, gates, out); });
  }
  static void gru_grad(int64_t n, const float* gates, const float* h, const float* dh, float* dgx,
                       float* dgh, float* direct) {
    over<V>(n, [=](auto v, int64_t j) {
      gru_grad_at<decltype(v)>(n, j, gates, h, dh, dgx, dgh, direct);
    });
  }
  static void plain(int64_t n, bool relu, const float* gx, const float* gh, float* h) {
    over<V>(n, [=](auto v, int64_t j) { plain_at<decltype(v)>(j, relu, gx, gh, h); });
  }
  static void plain_grad(int64_t n, bool relu, const float* h, const float* dh, float* dz) {
    over<V>(n, [=](auto v, int64_t j) { plain_grad_at<decltype(v)>(j, relu, h, dh, dz); });
  }
};

} // namespace
} // namespace nybble
