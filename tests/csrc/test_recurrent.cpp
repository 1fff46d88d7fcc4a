// Whole sequences of recurrent cells, forward and backward.
#include "check.hpp"
#include "recurrent/sequence.hpp"

namespace nybble_tests {
namespace {

using namespace nybble;

template <class T>
void read(const Case& one, const std::string& key, T& rule) {
  if (one.array(key).bytes != int64_t(sizeof(T))) throw std::runtime_error(key + ": size");
  std::memcpy(&rule, one.data<uint8_t>(key), sizeof(T));
}

StepRule rule_of(const Case& one, const std::string& name) {
  StepRule rule{};
  rule.kind = StepRule::Kind(one.integer("kind_" + name));
  rule.factor = one.real("factor_" + name), rule.multiplier = one.real("multiplier_" + name);
  const std::string key = "rule_" + name;
  if (rule.kind == StepRule::Kind::Integer)
    read(one, key, rule.integer);
  else if (rule.kind == StepRule::Kind::Log)
    read(one, key, rule.log);
  else if (rule.kind == StepRule::Kind::Thresholds)
    read(one, key, rule.thresholds);
  else
    read(one, key, rule.stochastic);
  if (one.has("stream_" + name)) rule.stream = stream_of(one, "stream_" + name);
  rule.fold = one.data<float>("fold_" + name); // or null
  if (!one.has("fit_" + name)) return rule;
  rule.fit = StepRule::Fit(one.integer("fit_" + name));
  rule.unit = one.real("unit_" + name);
  if (rule.fit == StepRule::Fit::Best)
    read(one, "fitted_" + name, rule.best);
  else
    read(one, "fitted_" + name, rule.whole);
  return rule;
}

StepProduct product_of(const Case& one, const std::string& name, int64_t n, int64_t k, int64_t rows,
                       bool contiguous, int threads) {
  const Matrix weights{one.data<uint8_t>(one.has("packed_" + name) ? "packed_" + name : "packed_x"),
                       4,
                       one.data<int16_t>("wtable_" + name),
                       {one.integer("wlow_" + name), one.integer("whigh_" + name)},
                       n,
                       contiguous};
  const StepCodes codes{one.data<int16_t>("table_" + name),
                        {one.integer("low_" + name), one.integer("high_" + name)}};
  if (!StepProduct::fits(codes.bounds, weights.bounds, k)) throw std::runtime_error("fits");
  const Vector scale{one.data<float>("wscale_" + name), one.array("wscale_" + name).count};
  Vector bias{nullptr, 0};
  if (contiguous && one.has("bias")) bias = {one.data<float>("bias"), n};
  return StepProduct(weights, codes, n, k, rows, scale, bias, threads);
}

// A copy that may be written to.
void fill(Output<float>& to, const Case& one, const std::string& key) {
  if (to.count() > 0) std::memcpy(to.data(), one.data<float>(key), size_t(to.count()) * 4);
}

} // namespace

void run_recurrent(const Case& one, int threads) {
  const int64_t hidden = one.integer("hidden"), rows = one.array("y").count / hidden;
  const SequenceShape shape{Cell(one.integer("cell")),
                            one.data<int64_t>("sizes"),
                            one.array("sizes").count,
                            one.integer("reverse") != 0,
                            hidden,
                            threads};
  const int64_t batch = one.array("h0").count / hidden, wide = shape.wide(), kept = shape.kept();
  const bool lstm = shape.cell == Cell::Lstm, gru = shape.cell == Cell::Gru;
  Output<float> h(batch * hidden), c(lstm ? batch * hidden : 0), y(rows * hidden);
  Output<float> gates(rows * kept), before(lstm ? rows * hidden : 0), multiplied(rows * hidden);
  fill(h, one, "h0");
  if (lstm) fill(c, one, "c0");
  StepProduct product = product_of(one, "x", wide, hidden, batch, true, threads);
  sequence_forward(shape, rule_of(one, "x"), product,
                   {one.data<float>("gx"), h.data(), c.data(), y.data(),
                    kept > 0 ? gates.data() : nullptr, lstm ? before.data() : nullptr,
                    multiplied.data()});
  expect(one, "y", y);
  expect(one, "h", h);
  expect(one, "gates", gates);
  expect(one, "multiplied", multiplied);
  if (lstm) {
    expect(one, "c", c);
    expect(one, "before", before);
  }
  Output<float> quiet(rows * hidden); // the same without anything kept
  fill(h, one, "h0");
  if (lstm) fill(c, one, "c0");
  sequence_forward(
      shape, rule_of(one, "x"), product,
      {one.data<float>("gx"), h.data(), c.data(), quiet.data(), nullptr, nullptr, nullptr});
  expect(one, "y", quiet);

  Output<float> dh(batch * hidden), dc(lstm ? batch * hidden : 0), dgx(rows * wide);
  Output<float> dgh(gru ? rows * wide : 0);
  fill(dh, one, "dh0");
  if (lstm) fill(dc, one, "dc0");
  Clip clip{one.data<uint8_t>("mask"), one.data<uint8_t>("codes"), {}, false};
  if (one.has("sides")) {
    std::memcpy(clip.sides, one.data<int8_t>("sides"), 16);
    clip.two_sided = one.integer("two_sided") != 0;
  }
  StepProduct back = product_of(one, "g", hidden, wide, batch, false, threads);
  const float* states = gru ? multiplied.data() : before.data();
  const BackwardResult result =
      sequence_backward(shape, rule_of(one, "g"), back, clip,
                        {y.data(), gates.data(), states, one.data<float>("dy"), dh.data(),
                         dc.data(), dgx.data(), gru ? dgh.data() : dgx.data()});
  expect(one, "dh", dh);
  expect(one, "dgx", dgx);
  if (lstm) expect(one, "dc", dc);
  if (gru) expect(one, "dgh", dgh);
  if (!one.has("dalpha")) return;
  expect(one, "dalpha", result.dalpha, clip.two_sided ? 2 : 1);
  float amax;
  std::memcpy(&amax, &result.top, 4);
  expect(one, "amax", &amax, 1);
}

} // namespace nybble_tests
