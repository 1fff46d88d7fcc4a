// Matrices with a scale of their own for each line.
#include "check.hpp"
#include "lines/images.hpp"
#include "lines/lines.hpp"

namespace nybble_tests {
namespace {

template <class Rule>
Rule rule_of(const Case& one) {
  Rule rule;
  if (one.array("rule").bytes != int64_t(sizeof(Rule))) throw std::runtime_error("rule size");
  std::memcpy(&rule, one.data<uint8_t>("rule"), sizeof(Rule));
  return rule;
}

void statistics(const Case& one, int64_t rows, int64_t columns, int threads) {
  Output<uint32_t> row_tops(rows), column_tops(columns);
  Output<float> sums(columns);
  nybble::folded_statistics({one.data<float>("x"), rows, columns, one.data<float>("along"),
                             one.data<float>("across"), row_tops.data(), column_tops.data(),
                             sums.data()},
                            threads);
  expect(one, "row_tops", reinterpret_cast<const float*>(row_tops.data()), rows);
  expect(one, "column_tops", reinterpret_cast<const float*>(column_tops.data()), columns);
  expect(one, "sums", sums);
}

void pack(const Case& one, int64_t rows, int64_t columns, int threads) {
  const int64_t bytes = one.array("codes_1").count;
  Output<uint8_t> first(bytes), second(bytes);
  const auto rule = rule_of<nybble::StochasticRule>(one);
  const nybble::FoldedOperand one_operand{{one.data<float>("along"), columns, 1},
                                          {one.data<float>("row_inv"), rows, columns},
                                          rule,
                                          stream_of(one, "stream_1"),
                                          first.data()};
  const nybble::FoldedOperand other{{one.data<float>("across"), rows, columns},
                                    {one.data<float>("column_inv"), columns, 1},
                                    rule,
                                    stream_of(one, "stream_2"),
                                    second.data()};
  nybble::folded_pack(one.data<float>("x"), rows, columns, one_operand, other, {}, threads);
  expect(one, "codes_1", first);
  expect(one, "codes_2", second);
}

void images(const Case& one, int threads) {
  const int64_t channels = one.integer("channels"), height = one.integer("height"),
                width = one.integer("width");
  const bool last = one.integer("channels_last") != 0;
  Output<float> error(channels * height * width);
  nybble::image_error({one.data<float>("x"), one.integer("images"), channels, height * width, last,
                       one.data<float>("factors"), one.data<int64_t>("codes_sums"),
                       one.data<float>("scale")},
                      error.data(), threads);
  expect(one, "error", error);
  const int64_t down = one.array("down").count / 2, across = one.array("across").count / 2;
  Output<float> sums(channels * down * across);
  nybble::tap_sums({one.data<float>("error"), channels, height, width, last,
                    reinterpret_cast<const nybble::Seen*>(one.data<int64_t>("down")),
                    reinterpret_cast<const nybble::Seen*>(one.data<int64_t>("across")), down,
                    across},
                   sums.data(), threads);
  expect(one, "taps", sums);
}

} // namespace

void run_lines(const Case& one, int threads) {
  if (one.has("taps")) return images(one, threads);
  const int64_t rows = one.integer("rows"), columns = one.integer("columns");
  if (one.has("row_tops")) return statistics(one, rows, columns, threads);
  if (one.has("codes_1")) return pack(one, rows, columns, threads);
  if (one.has("scale")) {
    Output<float> scale(rows), inv(rows);
    nybble::best_of_two(one.data<float>("x"), rows, columns, rule_of<nybble::BestOfTwo>(one),
                        scale.data(), inv.data(), threads);
    expect(one, "scale", scale);
    return expect(one, "inv", inv);
  }
  if (one.has("codes")) {
    Output<int64_t> sums(columns);
    nybble::column_sums(one.data<uint8_t>("codes"), one.data<int8_t>("table"), rows, columns,
                        sums.data(), threads);
    return expect(one, "sums", sums);
  }
  Output<float> out(rows * columns);
  std::memcpy(out.data(), one.data<float>("out"), size_t(rows * columns) * 4);
  nybble::add_outer(out.data(), rows, columns, one.data<float>("e"), one.data<float>("mu"),
                    threads);
  expect(one, "added", out);
}

} // namespace nybble_tests
