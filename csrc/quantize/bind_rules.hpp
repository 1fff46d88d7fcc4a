// Rules and random streams as Python passes them.
#pragma once

#include <nanobind/nanobind.h>

#include <cstring>
#include <stdexcept>
#include <string>

#include "quantize/pack.hpp"
#include "quantize/streams.hpp"

namespace nybble {

// The struct that those bytes are.
template <class Rule>
inline Rule rule_of(const nanobind::bytes& bytes, const char* what) {
  Rule rule;
  if (bytes.size() != sizeof(Rule))
    throw std::invalid_argument(std::string(what) + ": a rule has " + std::to_string(sizeof(Rule)) +
                                " bytes, got " + std::to_string(bytes.size()));
  std::memcpy(&rule, bytes.c_str(), sizeof(Rule));
  return rule;
}

inline StochasticRule stochastic_rule_of(const nanobind::bytes& bytes, const char* what) {
  const auto rule = rule_of<StochasticRule>(bytes, what);
  if (rule.count < 1 || rule.count > (rule.magnitude ? 8 : 16))
    throw std::invalid_argument(std::string(what) + ": 1 to 16 levels, or 8 magnitudes");
  return rule;
}

inline RandomStream stream_of(uint64_t seed, int64_t rank, int64_t layer, int64_t call,
                              int64_t operand) {
  if (rank < 0 || rank >> 16 || layer < 0 || layer >> 16 || call < 0 || call >> 32 || operand < 0 ||
      operand >> 16)
    throw std::invalid_argument("random: rank, layer and operand have 16 bits, call has 32");
  return {uint32_t(seed), uint32_t(seed >> 32), uint32_t(operand << 16), uint32_t(call),
          uint32_t(rank << 16 | layer)};
}

} // namespace nybble
