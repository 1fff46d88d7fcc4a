// Quantise and pack by every kind of rule, random bits, sums, masks and transposes.
#include "check.hpp"
#include "quantize/drivers.hpp"

namespace nybble_tests {
namespace {

using nybble::Packed;

template <class Rule>
Rule rule_of(const Case& one) {
  Rule rule;
  if (one.array("rule").bytes != int64_t(sizeof(Rule))) throw std::runtime_error("rule size");
  std::memcpy(&rule, one.data<uint8_t>("rule"), sizeof(Rule));
  return rule;
}

float number(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

nybble::IntegerRule integer_rule(const Case& one) {
  const int64_t bits = one.integer("bits");
  return {int32_t(one.integer("low")), int32_t(one.integer("high")), (1u << bits) - 1u, false,
          0.0f};
}

void pack(const Case& one, const std::string& kind, int threads) {
  const bool bf16 = one.has("bf16");
  const int64_t n = one.array("x").count;
  const int64_t bytes = one.array("codes").count;
  Output<uint8_t> codes(bytes), second(bytes), mask((n + 7) / 8);
  nybble::Target target{};
  target.x = bf16 ? static_cast<const void*>(one.data<int16_t>("bf16")) : one.data<float>("x");
  target.bf16 = bf16, target.n = n, target.codes = codes.data();
  if (one.has("second")) target.second = second.data();
  if (one.has("mask")) {
    target.mask = mask.data();
    target.inside_low = float(one.integer("low")), target.inside_high = float(one.integer("high"));
  }
  const nybble::Factors factors{one.data<float>("inv"), 1, 1};
  Packed got;
  if (kind == "integer") {
    got = nybble::pack_integer(target, factors, integer_rule(one), threads);
  } else if (kind == "log") {
    got = nybble::pack_log(target, factors, rule_of<nybble::LogRule>(one), threads);
  } else if (kind == "thresholds") {
    got = nybble::pack_thresholds(target, factors, rule_of<nybble::ThresholdRule>(one), threads);
  } else {
    nybble::Order order;
    order.channels = one.integer("channels"), order.pixels = one.integer("pixels");
    got = nybble::pack_stochastic(target, factors, rule_of<nybble::StochasticRule>(one),
                                  stream_of(one, "stream"), order, threads);
  }
  expect(one, "codes", codes);
  if (one.has("second")) expect(one, "second", second);
  if (one.has("mask")) expect(one, "mask", mask);
  const float top = number(got.top);
  expect(one, "top", &top, 1);
  if (got.finite != (one.integer("finite") != 0)) throw std::runtime_error("finite");
}

void sums(const Case& one, int threads) {
  const int64_t batch = one.array("x").sizes[0], n = one.array("x").sizes[1];
  const float* x = one.data<float>("x");
  Output<float> tree(batch), squares(batch), magnitudes(batch), top(batch);
  Output<uint32_t> bits(batch);
  nybble::tree_sums(x, batch, n, tree.data(), threads);
  nybble::moments(x, batch, n, squares.data(), magnitudes.data(), bits.data(), threads);
  for (int64_t i = 0; i < batch; ++i)
    top.data()[i] = number(bits.data()[i]);
  expect(one, "sums", tree);
  expect(one, "squares", squares);
  expect(one, "magnitudes", magnitudes);
  expect(one, "top", top);
}

void mask(const Case& one, int threads) {
  const int64_t n = one.array("dx").count;
  Output<float> dx(n);
  std::memcpy(dx.data(), one.data<float>("dx"), size_t(n) * sizeof(float));
  const bool two_sided = one.integer("two_sided") != 0;
  float clips[2];
  nybble::mask_gradient(dx.data(), n, one.data<uint8_t>("mask"), one.data<uint8_t>("codes"),
                        one.data<int8_t>("sides"), two_sided, clips, threads);
  expect(one, "result", dx);
  expect(one, "clips", clips, two_sided ? 2 : 1);
}

} // namespace

void run_quantize(const Case& one, int threads) {
  const std::string kind = one.name.substr(0, one.name.find(' '));
  if (kind == "sums") {
    sums(one, threads);
  } else if (kind == "mask") {
    mask(one, threads);
  } else if (kind == "random24") {
    Output<int32_t> random(one.array("random").count);
    nybble::random24(stream_of(one, "stream"), random.count(), random.data(), threads);
    expect(one, "random", random);
  } else if (kind == "absmax") {
    const int64_t rows = one.array("x").sizes[0], run = one.array("x").sizes[1];
    Output<uint32_t> bits(rows);
    Output<float> top(rows);
    nybble::absmax(one.data<float>("x"), false, rows, run, bits.data(), threads);
    for (int64_t i = 0; i < rows; ++i)
      top.data()[i] = number(bits.data()[i]);
    expect(one, "top", top);
  } else if (kind == "relayout") {
    Output<uint8_t> moved(one.array("moved").count);
    nybble::relayout(one.data<uint8_t>("codes"), one.integer("n"), one.integer("rows"),
                     one.integer("columns"), moved.data(), threads);
    expect(one, "moved", moved);
  } else {
    pack(one, kind, threads);
  }
}

} // namespace nybble_tests
