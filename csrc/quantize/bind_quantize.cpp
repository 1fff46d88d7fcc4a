// The Python functions of quantize/: sizes checked, the GIL released, statistics as Python floats.
#include <nanobind/nanobind.h>

#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "core/bind.hpp"
#include "quantize/bind_rules.hpp"
#include "quantize/drivers.hpp"
#include "quantize/fit.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

constexpr int64_t kMost = int64_t(1) << 46;

void check_size(int64_t n, const char* what) {
  if (n < 0 || n > kMost)
    throw std::invalid_argument(std::string(what) + ": " + std::to_string(n) + " is no size");
}

LogRule log_rule_of(const nb::bytes& bytes) {
  const auto rule = rule_of<LogRule>(bytes, "pack_log");
  for (const LogPhase& phase : rule.phase)
    if (phase.shift > 15 || phase.top > 7)
      throw std::invalid_argument("pack_log: a shift or a top code is too large");
  return rule;
}

// The magnitude whose bits those are, as a Python float.
double number(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return bits > 0x7f800000u ? std::numeric_limits<double>::quiet_NaN() : double(x);
}

// (max|x|, 0 or NaN)
nb::tuple result(const Packed& packed) {
  const double poison = packed.finite ? 0.0 : std::numeric_limits<double>::quiet_NaN();
  return nb::make_tuple(number(packed.top), poison);
}

struct Input {
  Target target;
  Factors factors;
};

Input input(uintptr_t x, size_t x_bytes, bool bf16, int64_t n, uintptr_t inv, size_t inv_bytes,
            int64_t run, uintptr_t codes, size_t codes_bytes, uintptr_t second, size_t second_bytes,
            uintptr_t mask, size_t mask_bytes, float low, float high) {
  check_size(n, "pack");
  Input in{};
  in.target.bf16 = bf16;
  in.target.n = n;
  if (bf16)
    in.target.x = checked_array<const uint16_t>(x, x_bytes, n, "pack x");
  else
    in.target.x = checked_array<const float>(x, x_bytes, n, "pack x");
  in.target.codes = checked_array<uint8_t>(codes, codes_bytes, packed_bytes4(n), "pack codes");
  if (second != 0)
    in.target.second =
        checked_array<uint8_t>(second, second_bytes, packed_bytes4(n), "pack second codes");
  if (mask != 0)
    in.target.mask = checked_array<uint8_t>(mask, mask_bytes, (n + 7) / 8, "pack mask");
  in.target.inside_low = low;
  in.target.inside_high = high;
  in.factors.count = int64_t(inv_bytes / sizeof(float));
  in.factors.run = run;
  if (run < 1 || in.factors.count < 1)
    throw std::invalid_argument("pack: there must be a factor, and a run of at least 1");
  in.factors.values = checked_array<const float>(inv, inv_bytes, in.factors.count, "pack factors");
  return in;
}

template <class Call>
nb::tuple released(const Call& call) {
  Packed packed;
  {
    nb::gil_scoped_release release;
    packed = call();
  }
  return result(packed);
}

} // namespace

void bind_quantize(nb::module_& m) {
  m.def("pack_integer", [](uintptr_t x, size_t x_bytes, bool bf16, int64_t n, uintptr_t inv,
                           size_t inv_bytes, int64_t run, uintptr_t codes, size_t codes_bytes,
                           uintptr_t mask, size_t mask_bytes, float inside_low, float inside_high,
                           int low, int high, int bits, bool affine, float zero, int threads) {
    if (bits < 2 || bits > 4 || low < -8 || high > 15 || low >= high)
      throw std::invalid_argument("pack_integer: the range must fit 2 to 4 bits");
    const Input in = input(x, x_bytes, bf16, n, inv, inv_bytes, run, codes, codes_bytes, 0, 0, mask,
                           mask_bytes, inside_low, inside_high);
    const IntegerRule rule{low, high, (1u << bits) - 1u, affine, zero};
    return released([&] { return pack_integer(in.target, in.factors, rule, threads); });
  });
  m.def("pack_log",
        [](uintptr_t x, size_t x_bytes, bool bf16, int64_t n, uintptr_t inv, size_t inv_bytes,
           int64_t run, uintptr_t codes, size_t codes_bytes, uintptr_t second, size_t second_bytes,
           uintptr_t mask, size_t mask_bytes, float inside_low, float inside_high,
           const nb::bytes& rule_bytes, int threads) {
          const Input in = input(x, x_bytes, bf16, n, inv, inv_bytes, run, codes, codes_bytes,
                                 second, second_bytes, mask, mask_bytes, inside_low, inside_high);
          const LogRule rule = log_rule_of(rule_bytes);
          return released([&] { return pack_log(in.target, in.factors, rule, threads); });
        });
  // The scale and the codes of a whole tensor; `clip` is (0, 0) where the rule has a statistic.
  m.def("quantize_integer",
        [](uintptr_t x, size_t x_bytes, int64_t n, const nb::bytes& rule_bytes, uintptr_t clip,
           size_t clip_bytes, uintptr_t codes, size_t codes_bytes, uintptr_t mask,
           size_t mask_bytes, uintptr_t multiplier, size_t multiplier_bytes, int threads) {
          const auto rule = rule_of<FitRule>(rule_bytes, "quantize_integer");
          if (rule.bits < 2 || rule.bits > 4 || rule.low < -8 || rule.high > 15 ||
              rule.low >= rule.high || rule.statistic < 0 || rule.statistic > 2)
            throw std::invalid_argument("quantize_integer: a statistic and 2 to 4 bits are needed");
          const float one = 1.0f;
          const Input in = input(x, x_bytes, false, n, reinterpret_cast<uintptr_t>(&one), 4, 1,
                                 codes, codes_bytes, 0, 0, mask, mask_bytes, 0.0f, 0.0f);
          const bool clipped = rule.statistic == int32_t(Statistic::Clip);
          const float bound =
              clipped ? *checked_array<const float>(clip, clip_bytes, 1, "quantize clip") : 0.0f;
          auto* to = checked_array<float>(multiplier, multiplier_bytes, 1, "quantize multiplier");
          nb::gil_scoped_release release;
          *to = quantize_integer(in.target, rule, bound, threads);
        });
  // Both phases of a gradient under the scale `used`: numbers = max|x|, used, and for each phase
  // fl(fl(1 / used) * unit), NaN where x is not finite.
  m.def("quantize_gradient",
        [](uintptr_t x, size_t x_bytes, int64_t n, float used, const nb::bytes& rule_bytes,
           float unit, float second_unit, uintptr_t codes, size_t codes_bytes, uintptr_t second,
           size_t second_bytes, uintptr_t numbers, size_t numbers_bytes, int threads) {
          const Input in = input(x, x_bytes, false, n, reinterpret_cast<uintptr_t>(&used), 4, 1,
                                 codes, codes_bytes, second, second_bytes, 0, 0, 0.0f, 0.0f);
          const LogRule rule = log_rule_of(rule_bytes);
          auto* to = checked_array<float>(numbers, numbers_bytes, 4, "quantize_gradient numbers");
          nb::gil_scoped_release release;
          const Packed packed = pack_log(in.target, in.factors, rule, threads);
          const float top = float(number(packed.top));
          // top * 0 is 0, or NaN where the gradient is not finite.
          const float inverse = 1.0f / used + top * 0.0f;
          to[0] = top, to[1] = used;
          to[2] = inverse * unit, to[3] = inverse * second_unit;
        });
  m.def("pack_thresholds",
        [](uintptr_t x, size_t x_bytes, bool bf16, int64_t n, uintptr_t inv, size_t inv_bytes,
           int64_t run, uintptr_t codes, size_t codes_bytes, uintptr_t mask, size_t mask_bytes,
           float inside_low, float inside_high, const nb::bytes& rule_bytes, int threads) {
          const Input in = input(x, x_bytes, bf16, n, inv, inv_bytes, run, codes, codes_bytes, 0, 0,
                                 mask, mask_bytes, inside_low, inside_high);
          const auto rule = rule_of<ThresholdRule>(rule_bytes, "pack_thresholds");
          return released([&] { return pack_thresholds(in.target, in.factors, rule, threads); });
        });
  m.def("pack_stochastic",
        [](uintptr_t x, size_t x_bytes, bool bf16, int64_t n, uintptr_t inv, size_t inv_bytes,
           int64_t run, uintptr_t codes, size_t codes_bytes, uintptr_t mask, size_t mask_bytes,
           float inside_low, float inside_high, const nb::bytes& rule_bytes, uint64_t seed,
           int64_t rank, int64_t layer, int64_t call, int64_t operand, int64_t channels,
           int64_t pixels, int threads) {
          const Input in = input(x, x_bytes, bf16, n, inv, inv_bytes, run, codes, codes_bytes, 0, 0,
                                 mask, mask_bytes, inside_low, inside_high);
          const StochasticRule rule = stochastic_rule_of(rule_bytes, "pack_stochastic");
          if (channels < 1 || pixels < 1)
            throw std::invalid_argument("pack_stochastic: channels and pixels are at least 1");
          if (n % checked_product(channels, pixels, "pack_stochastic") != 0)
            throw std::invalid_argument("pack_stochastic: no whole images of " +
                                        std::to_string(channels) + " channels and " +
                                        std::to_string(pixels) + " pixels");
          const RandomStream stream = stream_of(seed, rank, layer, call, operand);
          const Order order{channels, pixels};
          return released(
              [&] { return pack_stochastic(in.target, in.factors, rule, stream, order, threads); });
        });
  m.def("absmax", [](uintptr_t x, size_t x_bytes, bool bf16, int64_t rows, int64_t run,
                     uintptr_t out, size_t out_bytes, int threads) {
    const int64_t n = checked_product(rows, run, "absmax");
    const void* from = nullptr;
    if (bf16)
      from = checked_array<const uint16_t>(x, x_bytes, n, "absmax x");
    else
      from = checked_array<const float>(x, x_bytes, n, "absmax x");
    auto* to = checked_array<uint32_t>(out, out_bytes, rows, "absmax out");
    nb::gil_scoped_release release;
    absmax(from, bf16, rows, run, to, threads);
    for (int64_t i = 0; i < rows; ++i)
      if (to[i] > 0x7f800000u) to[i] = 0x7fc00000u;
  });
  m.def("random24", [](uint64_t seed, int64_t rank, int64_t layer, int64_t call, int64_t operand,
                       int64_t n, uintptr_t out, size_t out_bytes, int threads) {
    check_size(n, "random24");
    const RandomStream stream = stream_of(seed, rank, layer, call, operand);
    auto* to = checked_array<int32_t>(out, out_bytes, n, "random24 out");
    nb::gil_scoped_release release;
    random24(stream, n, to, threads);
  });
  // As a signed number of 64 bits.
  m.def("fingerprint", [](uintptr_t x, size_t x_bytes, int64_t n, int threads) {
    check_size(n, "fingerprint");
    const auto* from = checked_array<const float>(x, x_bytes, n, "fingerprint x");
    nb::gil_scoped_release release;
    return int64_t(fingerprint(from, n, threads));
  });
  m.def("relayout", [](uintptr_t codes, size_t codes_bytes, int64_t n, int64_t rows,
                       int64_t columns, uintptr_t out, size_t out_bytes, int threads) {
    const int64_t all = checked_product(n, checked_product(rows, columns, "relayout"), "relayout");
    const auto* from =
        checked_array<const uint8_t>(codes, codes_bytes, packed_bytes4(all), "relayout codes");
    auto* to = checked_array<uint8_t>(out, out_bytes, packed_bytes4(all), "relayout out");
    nb::gil_scoped_release release;
    relayout(from, n, rows, columns, to, threads);
  });
  m.def("tree_sums", [](uintptr_t x, size_t x_bytes, int64_t batch, int64_t n, uintptr_t out,
                        size_t out_bytes, int threads) {
    const int64_t all = checked_product(batch, n, "tree_sums");
    const auto* from = checked_array<const float>(x, x_bytes, all, "tree_sums x");
    auto* to = checked_array<float>(out, out_bytes, batch, "tree_sums out");
    nb::gil_scoped_release release;
    tree_sums(from, batch, n, to, threads);
  });
  m.def("moments", [](uintptr_t x, size_t x_bytes, int64_t batch, int64_t n, uintptr_t out,
                      size_t out_bytes, int threads) {
    const int64_t all = checked_product(batch, n, "moments");
    const auto* from = checked_array<const float>(x, x_bytes, all, "moments x");
    auto* to =
        checked_array<float>(out, out_bytes, checked_product(3, batch, "moments"), "moments out");
    nb::gil_scoped_release release;
    auto* top = reinterpret_cast<uint32_t*>(to + 2 * batch);
    moments(from, batch, n, to, to + batch, top, threads);
    for (int64_t i = 0; i < batch; ++i)
      if (top[i] > 0x7f800000u) top[i] = 0x7fc00000u;
  });
  m.def("mask_gradient", [](uintptr_t dx, size_t dx_bytes, int64_t n, uintptr_t mask,
                            size_t mask_bytes, uintptr_t codes, size_t codes_bytes,
                            const nb::bytes& sides, bool two_sided, int threads) {
    check_size(n, "mask_gradient");
    auto* values = checked_array<float>(dx, dx_bytes, n, "mask_gradient dx");
    const auto* bits =
        checked_array<const uint8_t>(mask, mask_bytes, (n + 7) / 8, "mask_gradient mask");
    const uint8_t* packed = nullptr;
    if (codes != 0)
      packed =
          checked_array<const uint8_t>(codes, codes_bytes, packed_bytes4(n), "mask_gradient codes");
    if (sides.size() != 16)
      throw std::invalid_argument("mask_gradient: there is a side for each of 16 codes");
    int8_t table[16];
    std::memcpy(table, sides.c_str(), 16);
    float out[2] = {0.0f, 0.0f};
    {
      nb::gil_scoped_release release;
      mask_gradient(values, n, bits, packed, table, two_sided, out, threads);
    }
    return nb::make_tuple(double(out[0]), double(out[1]));
  });
}

} // namespace nybble
