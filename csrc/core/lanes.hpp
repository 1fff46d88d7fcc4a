// One float as a type of lanes: what loops that are written over such a type do without registers,
// and with what whole registers leave. lanes_avx2.hpp has eight. Included by one file for each
// instruction set; the unnamed namespace keeps their instances apart.
#pragma once

#include <cstdint>

namespace nybble {
namespace {

struct Lane {
  static constexpr int kLanes = 1;
  float v;
  static Lane load(const float* at) { return {*at}; }
  static Lane set(float x) { return {x}; }
  static Lane strided(const float* at, int64_t) { return {*at}; }
  static Lane from24(const int32_t* at) { return {float(*at) * 0x1p-24f}; }
  void store(float* at) const { *at = v; }
  void store_strided(float* at, int64_t) const { *at = v; }
};
inline Lane operator+(Lane a, Lane b) { return {a.v + b.v}; }
inline Lane operator-(Lane a, Lane b) { return {a.v - b.v}; }
inline Lane operator*(Lane a, Lane b) { return {a.v * b.v}; }
inline Lane operator/(Lane a, Lane b) { return {a.v / b.v}; }
inline Lane min(Lane a, Lane b) { return {a.v < b.v ? a.v : b.v}; }
inline Lane max(Lane a, Lane b) { return {a.v > b.v ? a.v : b.v}; }

} // namespace
} // namespace nybble
