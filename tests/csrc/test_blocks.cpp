// Maxima, rounding and scales of blocks, and the Hadamard.
#include "blocks/blocks.hpp"
#include "check.hpp"

namespace nybble_tests {
namespace {

template <class Rule>
Rule rule_of(const Case& one, const std::string& key) {
  Rule rule;
  if (one.array(key).bytes != int64_t(sizeof(Rule))) throw std::runtime_error(key + ": size");
  std::memcpy(&rule, one.data<uint8_t>(key), sizeof(Rule));
  return rule;
}

void turn(const Case& one, int threads) {
  const int64_t* d = one.data<int64_t>("dims");
  const float* x = one.data<float>("x");
  nybble::Turn turn{d[0], d[1], d[2], d[3], d[4], one.data<float>("signs"), false, d[5] != 0};
  Output<float> y(one.array("x").count);
  nybble::hadamard(x, turn, y.data(), threads);
  expect(one, "turned", y);
  turn.back = true;
  nybble::hadamard(x, turn, y.data(), threads);
  expect(one, "back", y);
  turn.signs = nullptr, turn.back = false;
  nybble::hadamard(x, turn, y.data(), threads);
  expect(one, "plain", y);
}

} // namespace

void run_blocks(const Case& one, int threads) {
  if (one.has("turned")) return turn(one, threads);
  nybble::Grid grid{};
  grid.dims = int(one.array("sizes").count);
  for (int d = 0; d < grid.dims; ++d) {
    grid.size[d] = one.data<int64_t>("sizes")[d];
    grid.block[d] = one.data<int64_t>("blocks")[d];
  }
  const float *x = one.data<float>("x"), *inv = one.data<float>("inv");
  Output<uint32_t> tops(grid.scales());
  nybble::block_tops(x, grid, tops.data(), threads);
  expect(one, "tops", reinterpret_cast<const float*>(tops.data()), tops.count());
  Output<float> y(grid.elements());
  nybble::round_nearest(x, grid, inv, rule_of<nybble::NearestLevels>(one, "rule"), y.data(),
                        threads);
  expect(one, "nearest", y);
  Output<float> values(grid.elements());
  nybble::scale_blocks(y.data(), grid, one.data<float>("scale"), values.data(), threads);
  expect(one, "values", values);
  nybble::round_stochastic(x, grid, inv, rule_of<nybble::StochasticLevels>(one, "drawing"),
                           stream_of(one, "stream"), 0, {}, y.data(), threads);
  expect(one, "drawn", y);
}

} // namespace nybble_tests
