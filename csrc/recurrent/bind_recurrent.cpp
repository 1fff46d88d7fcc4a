// `nybble._core.sequence_forward` and `sequence_backward`: sizes checked, the GIL released.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "core/bind.hpp"
#include "quantize/bind_rules.hpp"
#include "recurrent/sequence.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

using Span = std::tuple<uintptr_t, size_t>;
// packed, table, bits, low, high, whether the contraction is contiguous
using Operand = std::tuple<Span, Span, int, int64_t, int64_t, bool>;
// kind (0 integer, 1 log, 2 thresholds, 3 stochastic), the rule, factor, multiplier; table, low,
// high; fit (0 none, 1 whole, 2 rows, 3 best), its rule, the unit, the fold; the random stream
using Stream = std::tuple<uint64_t, int64_t, int64_t, int64_t, int64_t>;
using Rule = std::tuple<int, nb::bytes, float, float, Span, int64_t, int64_t, int, nb::bytes, float,
                        Span, Stream>;
// cell, sizes, reverse, hidden, threads
using Shape = std::tuple<int, std::vector<int64_t>, bool, int64_t, int>;

SequenceShape shape_of(const Shape& shape) {
  const auto& [cell, sizes, reverse, hidden, threads] = shape;
  if (cell < 0 || cell > 3) throw std::invalid_argument("sequence: cells are 0 to 3");
  for (const int64_t size : sizes)
    if (size < 0 || size > int64_t(1) << 31)
      throw std::invalid_argument("sequence: a step has " + std::to_string(size) + " rows");
  if (hidden < 1) throw std::invalid_argument("sequence: at least one unit is needed");
  checked_product(hidden, 4, "sequence hidden");
  return {Cell(cell), sizes.data(), int64_t(sizes.size()), reverse, hidden, threads};
}

int64_t rows_of(const SequenceShape& shape) {
  int64_t rows = 0;
  for (int64_t t = 0; t < shape.steps; ++t)
    rows += shape.sizes[t];
  return rows;
}

int64_t batch_of(const SequenceShape& shape) {
  int64_t most = 0;
  for (int64_t t = 0; t < shape.steps; ++t)
    most = shape.sizes[t] > most ? shape.sizes[t] : most;
  return most;
}

StepRule step_rule_of(const Rule& given, int64_t columns) {
  const auto& [kind, bytes, factor, multiplier, table, low, high, fit, fitted, unit, fold, stream] =
      given;
  StepRule rule{};
  rule.kind = StepRule::Kind(kind);
  rule.factor = factor, rule.multiplier = multiplier;
  if (kind == 0)
    rule.integer = rule_of<decltype(rule.integer)>(bytes, "sequence");
  else if (kind == 1)
    rule.log = rule_of<decltype(rule.log)>(bytes, "sequence");
  else if (kind == 2)
    rule.thresholds = rule_of<decltype(rule.thresholds)>(bytes, "sequence");
  else if (kind == 3)
    rule.stochastic = stochastic_rule_of(bytes, "sequence");
  else
    throw std::invalid_argument("sequence: kinds of rules are 0 to 3");
  if (fit < 0 || fit > 3) throw std::invalid_argument("sequence: kinds of fits are 0 to 3");
  rule.fit = StepRule::Fit(fit);
  if (rule.fit == StepRule::Fit::Best)
    rule.best = rule_of<decltype(rule.best)>(fitted, "sequence");
  else if (rule.fit != StepRule::Fit::Fixed)
    rule.whole = rule_of<decltype(rule.whole)>(fitted, "sequence");
  rule.unit = unit;
  if (std::get<0>(fold) != 0)
    rule.fold =
        checked_array<const float>(std::get<0>(fold), std::get<1>(fold), columns, "sequence fold");
  const auto& [seed, rank, layer, call, operand] = stream;
  rule.stream = stream_of(seed, rank, layer, call, operand);
  return rule;
}

Bounds bounds_of(int64_t low, int64_t high) {
  if (low > 0 || high < 0 || low < INT32_MIN || high > INT32_MAX)
    throw std::invalid_argument("sequence: bounds must hold 0 and fit 32 bits");
  return {low, high};
}

StepCodes codes_of(const Rule& given) {
  const auto& [address, size] = std::get<4>(given);
  const int64_t low = std::get<5>(given), high = std::get<6>(given);
  return {checked_array<const int16_t>(address, size, 16, "sequence table"), bounds_of(low, high)};
}

Matrix matrix_of(const Operand& operand, int64_t n, int64_t k) {
  const auto& [packed, table, bits, low, high, contiguous] = operand;
  if (bits != 4 && bits != 8)
    throw std::invalid_argument("sequence weights: codes have 4 or 8 bits here");
  const int64_t count = checked_product(n, k, "sequence weights");
  return {checked_array<const uint8_t>(std::get<0>(packed), std::get<1>(packed),
                                       bits == 4 ? packed_bytes4(count) : count,
                                       "sequence weights"),
          bits,
          checked_array<const int16_t>(std::get<0>(table), std::get<1>(table), bits == 4 ? 16 : 256,
                                       "sequence weights' table"),
          bounds_of(low, high),
          n,
          contiguous};
}

Vector vector_of(const Span& span, int64_t n, const char* what) {
  const auto& [address, bytes] = span;
  if (address == 0 && bytes == 0) return {nullptr, 0};
  const int64_t count = bytes == sizeof(float) ? 1 : n;
  return {checked_array<const float>(address, bytes, count, what), count};
}

template <class T>
T* array(const Span& span, int64_t rows, int64_t columns, const char* what) {
  return checked_array<T>(std::get<0>(span), std::get<1>(span),
                          checked_product(rows, columns, what), what);
}

// Null where there is nothing.
template <class T>
T* maybe(const Span& span, int64_t rows, int64_t columns, const char* what) {
  return std::get<0>(span) == 0 ? nullptr : array<T>(span, rows, columns, what);
}

} // namespace

void bind_recurrent(nb::module_& m) {
  m.def("sequence_fits",
        [](int64_t low_a, int64_t high_a, int64_t low_b, int64_t high_b, int64_t k) {
          return StepProduct::fits(bounds_of(low_a, high_a), bounds_of(low_b, high_b), k);
        });
  m.def("sequence_forward",
        [](const Shape& given, const Rule& rule_given, const Operand& weights, const Span& scale,
           const Span& bias, const Span& gx, const Span& h, const Span& c, const Span& y,
           const Span& gates, const Span& before, const Span& multiplied) {
          const SequenceShape shape = shape_of(given);
          const int64_t rows = rows_of(shape), batch = batch_of(shape), n = shape.hidden;
          const int64_t wide = shape.wide();
          const StepRule rule = step_rule_of(rule_given, n);
          const bool lstm = shape.cell == Cell::Lstm;
          const ForwardData data{array<const float>(gx, rows, wide, "sequence gx"),
                                 array<float>(h, batch, n, "sequence h"),
                                 lstm ? array<float>(c, batch, n, "sequence c") : nullptr,
                                 array<float>(y, rows, n, "sequence y"),
                                 maybe<float>(gates, rows, shape.kept(), "sequence gates"),
                                 lstm ? maybe<float>(before, rows, n, "sequence before") : nullptr,
                                 maybe<float>(multiplied, rows, n, "sequence inputs")};
          const Matrix matrix = matrix_of(weights, wide, n);
          const StepCodes codes = codes_of(rule_given);
          const Vector by = vector_of(scale, wide, "sequence scale");
          const Vector add = vector_of(bias, wide, "sequence bias");
          nb::gil_scoped_release release;
          StepProduct product(matrix, codes, wide, n, batch, by, add, shape.threads);
          sequence_forward(shape, rule, product, data);
        });
  m.def("sequence_backward", [](const Shape& given, const Rule& rule_given, const Operand& weights,
                                const Span& scale, const Span& mask, const Span& input_codes,
                                const nb::bytes& sides, bool two_sided, const Span& y,
                                const Span& gates, const Span& before, const Span& dy,
                                const Span& dh, const Span& dc, const Span& dgx, const Span& dgh) {
    const SequenceShape shape = shape_of(given);
    const int64_t rows = rows_of(shape), batch = batch_of(shape), n = shape.hidden;
    const int64_t wide = shape.wide();
    const bool lstm = shape.cell == Cell::Lstm, kept = shape.kept() > 0;
    const StepRule rule = step_rule_of(rule_given, wide);
    const BackwardData data{kept ? nullptr : array<const float>(y, rows, n, "sequence y"),
                            kept ? array<const float>(gates, rows, shape.kept(), "sequence gates")
                                 : nullptr,
                            kept ? array<const float>(before, rows, n, "sequence before") : nullptr,
                            maybe<const float>(dy, rows, n, "sequence dy"),
                            array<float>(dh, batch, n, "sequence dh"),
                            lstm ? array<float>(dc, batch, n, "sequence dc") : nullptr,
                            array<float>(dgx, rows, wide, "sequence dgx"),
                            array<float>(dgh, rows, wide, "sequence dgh")};
    const int64_t inputs = checked_product(rows, n, "sequence inputs");
    Clip clip{};
    if (std::get<0>(mask) != 0)
      clip.mask = array<const uint8_t>(mask, (inputs + 7) / 8, 1, "sequence mask");
    if (std::get<0>(input_codes) != 0)
      clip.codes = array<const uint8_t>(input_codes, packed_bytes4(inputs), 1, "sequence codes");
    if (sides.size() != 16)
      throw std::invalid_argument("sequence: there is a side for each of 16 codes");
    std::memcpy(clip.sides, sides.c_str(), 16);
    clip.two_sided = two_sided;
    const Matrix matrix = matrix_of(weights, n, wide);
    const StepCodes codes = codes_of(rule_given);
    const Vector by = vector_of(scale, n, "sequence scale");
    BackwardResult result;
    {
      nb::gil_scoped_release release;
      StepProduct product(matrix, codes, n, wide, batch, by, {nullptr, 0}, shape.threads);
      result = sequence_backward(shape, rule, product, clip, data);
    }
    float top;
    std::memcpy(&top, &result.top, 4);
    const double amax =
        result.top > 0x7f800000u ? std::numeric_limits<double>::quiet_NaN() : double(top);
    return nb::make_tuple(amax, double(result.dalpha[0]), double(result.dalpha[1]));
  });
}

} // namespace nybble
