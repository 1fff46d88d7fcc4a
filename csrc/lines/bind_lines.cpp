// The Python functions of lines/: sizes checked, the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/bind.hpp"
#include "lines/images.hpp"
#include "lines/lines.hpp"
#include "quantize/bind_rules.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

using Bytes = std::tuple<uintptr_t, size_t>; // address, bytes; (0, 0) for nothing

template <class T>
T* array(const Bytes& span, int64_t count, const char* what) {
  return checked_array<T>(std::get<0>(span), std::get<1>(span), count, what);
}

template <class T>
T* maybe(const Bytes& span, int64_t count, const char* what) {
  return std::get<0>(span) == 0 ? nullptr : array<T>(span, count, what);
}

// NaN is one number.
void tidy(uint32_t* tops, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (tops[i] > 0x7f800000u) tops[i] = 0x7fc00000u;
}

// values, run
using Each = std::tuple<Bytes, int64_t>;
// fold, inverse, rule, (seed, rank, layer, call, operand), codes
using Stream = std::tuple<uint64_t, int64_t, int64_t, int64_t, int64_t>;
using Folded = std::tuple<Each, Each, nb::bytes, Stream, Bytes>;

Factors factors(const Each& each, const char* what) {
  const auto& [span, run] = each;
  if (std::get<0>(span) == 0) return {nullptr, 0, 1};
  const int64_t count = int64_t(std::get<1>(span) / sizeof(float));
  if (run < 1 || count < 1)
    throw std::invalid_argument(std::string(what) + ": there must be a factor, and a run of it");
  return {array<const float>(span, count, what), count, run};
}

// Inside a row the factor may not change, unless there is one for each column.
void check_lines(const Factors& f, int64_t columns, const char* what) {
  const bool each = f.run == 1 && f.count == columns;
  if (f.count > 1 && columns > 0 && !each && f.run % columns != 0)
    throw std::invalid_argument(std::string(what) + ": a factor must last for whole rows");
}

FoldedOperand operand(const Folded& folded, int64_t n, int64_t columns, const char* what) {
  const auto& [fold, inv, rule, stream, codes] = folded;
  FoldedOperand out{};
  out.codes = maybe<uint8_t>(codes, packed_bytes4(n), what);
  if (out.codes == nullptr) return out;
  out.fold = factors(fold, what), out.inv = factors(inv, what);
  check_lines(out.fold, columns, what);
  check_lines(out.inv, columns, what);
  out.rule = stochastic_rule_of(rule, what);
  const auto& [seed, rank, layer, call, operand] = stream;
  out.stream = stream_of(seed, rank, layer, call, operand);
  return out;
}

// Pairs of output positions, each inside [0, size].
std::vector<Seen> seen_of(const std::vector<std::tuple<int64_t, int64_t>>& pairs, int64_t size,
                          const char* what) {
  std::vector<Seen> out;
  for (const auto& [first, last] : pairs) {
    if (first < 0 || last < first || last > size)
      throw std::invalid_argument(std::string(what) + ": a tap sees positions inside the plane");
    out.push_back({first, last});
  }
  return out;
}

void bind_images(nb::module_& m) {
  m.def("image_error", [](const Bytes& x, int64_t images, int64_t channels, int64_t pixels,
                          bool channels_last, const Bytes& factors, const Bytes& sums,
                          const Bytes& scale, const Bytes& error, int threads) {
    const char* what = "image_error";
    const int64_t plane = checked_product(channels, pixels, what);
    const RoundedImages of{array<const float>(x, checked_product(images, plane, what), what),
                           images,
                           channels,
                           pixels,
                           channels_last,
                           maybe<const float>(factors, images, what),
                           array<const int64_t>(sums, plane, what),
                           array<const float>(scale, channels, what)};
    auto* to = array<float>(error, plane, what);
    nb::gil_scoped_release release;
    image_error(of, to, threads);
  });
  using Pairs = std::vector<std::tuple<int64_t, int64_t>>;
  m.def("tap_sums", [](const Bytes& plane, int64_t channels, int64_t height, int64_t width,
                       bool channels_last, const Pairs& down, const Pairs& across,
                       const Bytes& sums, int threads) {
    const char* what = "tap_sums";
    const int64_t pixels = checked_product(height, width, what);
    const std::vector<Seen> high = seen_of(down, height, what), wide = seen_of(across, width, what);
    const int64_t taps = checked_product(int64_t(high.size()), int64_t(wide.size()), what);
    const TapPlane of{array<const float>(plane, checked_product(channels, pixels, what), what),
                      channels,
                      height,
                      width,
                      channels_last,
                      high.data(),
                      wide.data(),
                      int64_t(high.size()),
                      int64_t(wide.size())};
    auto* to = array<float>(sums, checked_product(channels, taps, what), what);
    nb::gil_scoped_release release;
    tap_sums(of, to, threads);
  });
}

} // namespace

void bind_lines(nb::module_& m) {
  bind_images(m);
  m.def("folded_statistics",
        [](const Bytes& x, int64_t rows, int64_t columns, const Bytes& along, const Bytes& across,
           const Bytes& row_tops, const Bytes& column_tops, const Bytes& sums, int threads) {
          const char* what = "folded_statistics";
          const FoldedMatrix of{array<const float>(x, checked_product(rows, columns, what), what),
                                rows,
                                columns,
                                maybe<const float>(along, columns, what),
                                maybe<const float>(across, rows, what),
                                array<uint32_t>(row_tops, rows, what),
                                array<uint32_t>(column_tops, columns, what),
                                maybe<float>(sums, columns, what)};
          nb::gil_scoped_release release;
          folded_statistics(of, threads);
          tidy(of.row_tops, rows);
          tidy(of.column_tops, columns);
        });
  m.def("line_scales",
        [](const Bytes& tops, int64_t n, float levels, const Bytes& scale, const Bytes& inv) {
          const char* what = "line_scales";
          line_scales(array<const float>(tops, n, what), n, levels, array<float>(scale, n, what),
                      array<float>(inv, n, what));
        });
  m.def("folded_pack", [](const Bytes& x, int64_t rows, int64_t columns, const Folded& first,
                          const Folded& second, int64_t channels, int64_t pixels, int threads) {
    const char* what = "folded_pack";
    const int64_t n = checked_product(rows, columns, what);
    const auto* from = array<const float>(x, n, what);
    const FoldedOperand one = operand(first, n, columns, what);
    const FoldedOperand two = operand(second, n, columns, what);
    if (channels < 1 || pixels < 1 || n % checked_product(channels, pixels, what) != 0)
      throw std::invalid_argument("folded_pack: no whole images of " + std::to_string(channels) +
                                  " channels and " + std::to_string(pixels) + " pixels");
    nb::gil_scoped_release release;
    folded_pack(from, rows, columns, one, two, {channels, pixels}, threads);
  });
  m.def("best_of_two", [](const Bytes& x, int64_t rows, int64_t n, const nb::bytes& rule_bytes,
                          const Bytes& scale, const Bytes& inv, int threads) {
    const char* what = "best_of_two";
    const auto* from = array<const float>(x, checked_product(rows, n, what), what);
    const auto rule = rule_of<BestOfTwo>(rule_bytes, what);
    auto* to = array<float>(scale, rows, what);
    auto* inverse = array<float>(inv, rows, what);
    nb::gil_scoped_release release;
    best_of_two(from, rows, n, rule, to, inverse, threads);
  });
  m.def("column_sums", [](const Bytes& packed, const nb::bytes& table, int64_t rows,
                          int64_t columns, const Bytes& out, int threads) {
    const char* what = "column_sums";
    const int64_t n = checked_product(rows, columns, what);
    const auto* codes = array<const uint8_t>(packed, packed_bytes4(n), what);
    if (table.size() != 16)
      throw std::invalid_argument("column_sums: there is an integer for each of 16 codes");
    int8_t values[16];
    std::memcpy(values, table.c_str(), 16);
    auto* to = array<int64_t>(out, columns, what);
    nb::gil_scoped_release release;
    column_sums(codes, values, rows, columns, to, threads);
  });
  m.def("add_outer", [](const Bytes& out, int64_t rows, int64_t columns, const Bytes& e,
                        const Bytes& mu, int threads) {
    const char* what = "add_outer";
    auto* to = array<float>(out, checked_product(rows, columns, what), what);
    const auto* left = array<const float>(e, rows, what);
    const auto* right = array<const float>(mu, columns, what);
    nb::gil_scoped_release release;
    add_outer(to, rows, columns, left, right, threads);
  });
}

} // namespace nybble
