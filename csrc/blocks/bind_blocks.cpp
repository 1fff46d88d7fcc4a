// The Python functions of blocks/: sizes checked, the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "blocks/blocks.hpp"
#include "core/bind.hpp"
#include "quantize/bind_rules.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

using Bytes = std::tuple<uintptr_t, size_t>;            // address, bytes; (0, 0) for nothing
using Dims = std::vector<std::tuple<int64_t, int64_t>>; // size, block
using Stream = std::tuple<uint64_t, int64_t, int64_t, int64_t, int64_t>;

template <class T>
T* array(const Bytes& span, int64_t count, const char* what) {
  return checked_array<T>(std::get<0>(span), std::get<1>(span), count, what);
}

Grid grid_of(const Dims& dims, const char* what) {
  Grid grid{};
  if (dims.empty() || dims.size() > kMostDims)
    throw std::invalid_argument(std::string(what) + ": 1 to " + std::to_string(kMostDims) +
                                " dimensions");
  int64_t n = 1;
  for (const auto& [size, block] : dims) {
    if (block < 1) throw std::invalid_argument(std::string(what) + ": a block has elements");
    n = checked_product(n, size, what);
    // More than the dimension itself is the dimension: sums with it then cannot overflow.
    grid.size[grid.dims] = size;
    grid.block[grid.dims++] = std::max<int64_t>(1, std::min(block, size));
  }
  return grid;
}

} // namespace

void bind_blocks(nb::module_& m) {
  m.def("block_tops", [](const Bytes& x, const Dims& dims, const Bytes& tops, int threads) {
    const char* what = "block_tops";
    const Grid grid = grid_of(dims, what);
    const auto* from = array<const float>(x, grid.elements(), what);
    auto* to = array<uint32_t>(tops, grid.scales(), what);
    nb::gil_scoped_release release;
    block_tops(from, grid, to, threads);
    const int64_t count = grid.scales();
    for (int64_t i = 0; i < count; ++i)
      if (to[i] > 0x7f800000u) to[i] = 0x7fc00000u; // NaN is one number
  });
  m.def("scale_blocks",
        [](const Bytes& x, const Dims& dims, const Bytes& scale, const Bytes& y, int threads) {
          const char* what = "scale_blocks";
          const Grid grid = grid_of(dims, what);
          const auto* from = array<const float>(x, grid.elements(), what);
          const auto* by = array<const float>(scale, grid.scales(), what);
          auto* to = array<float>(y, grid.elements(), what);
          nb::gil_scoped_release release;
          scale_blocks(from, grid, by, to, threads);
        });
  m.def("round_nearest", [](const Bytes& x, const Dims& dims, const Bytes& inv,
                            const nb::bytes& rule, const Bytes& y, int threads) {
    const char* what = "round_nearest";
    const Grid grid = grid_of(dims, what);
    const auto* from = array<const float>(x, grid.elements(), what);
    const auto* by = array<const float>(inv, grid.scales(), what);
    const auto levels = rule_of<NearestLevels>(rule, what);
    auto* to = array<float>(y, grid.elements(), what);
    nb::gil_scoped_release release;
    round_nearest(from, grid, by, levels, to, threads);
  });
  m.def("round_stochastic", [](const Bytes& x, const Dims& dims, const Bytes& inv,
                               const nb::bytes& rule, const Stream& stream, int64_t first,
                               int64_t channels, int64_t pixels, const Bytes& y, int threads) {
    const char* what = "round_stochastic";
    const Grid grid = grid_of(dims, what);
    const int64_t n = grid.elements();
    const auto* from = array<const float>(x, n, what);
    const auto* by = array<const float>(inv, grid.scales(), what);
    const auto levels = rule_of<StochasticLevels>(rule, what);
    const auto& [seed, rank, layer, call, operand] = stream;
    const RandomStream random = stream_of(seed, rank, layer, call, operand);
    if (channels < 1 || pixels < 1 || n % checked_product(channels, pixels, what) != 0)
      throw std::invalid_argument("round_stochastic: no whole images of " +
                                  std::to_string(channels) + " channels and " +
                                  std::to_string(pixels) + " pixels");
    if (first < 0 || first > int64_t(1) << 46 || (first != 0 && channels != 1))
      throw std::invalid_argument("round_stochastic: elements are counted from 0, in C order");
    auto* to = array<float>(y, n, what);
    nb::gil_scoped_release release;
    round_stochastic(from, grid, by, levels, random, first, {channels, pixels}, to, threads);
  });
  m.def("hadamard", [](const Bytes& x, int64_t outer, int64_t groups, int64_t size, int64_t inner,
                       int64_t block, const Bytes& signs, bool back, bool strided, const Bytes& y,
                       int threads) {
    const char* what = "hadamard";
    if (block < 1 || (block & (block - 1)) != 0)
      throw std::invalid_argument("hadamard: a block is a power of two");
    const int64_t n = checked_product(checked_product(outer, groups, what),
                                      checked_product(size, inner, what), what);
    Turn turn{outer, groups, size, inner, block, nullptr, back, strided};
    if (std::get<0>(signs) != 0) turn.signs = array<const float>(signs, size, what);
    const auto* from = array<const float>(x, n, what);
    auto* to = array<float>(y, n, what);
    nb::gil_scoped_release release;
    hadamard(from, turn, to, threads);
  });
}

} // namespace nybble
