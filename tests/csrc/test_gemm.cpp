// The Gemm drivers on packed codes.
#include "check.hpp"
#include "gemm/gemm.hpp"

namespace nybble_tests {
namespace {

nybble::Matrix matrix(const Case& one, const std::string& name, int64_t free, bool is_a) {
  return {one.data<uint8_t>("packed_" + name),
          int(one.integer("bits_" + name)),
          one.data<int16_t>("table_" + name),
          {one.integer("low_" + name), one.integer("high_" + name)},
          free,
          is_a != (one.integer("transposed_" + name) != 0)};
}

nybble::Vector vector(const Case& one, const std::string& name) {
  if (!one.has(name)) return {nullptr, 0};
  return {one.data<float>(name), one.array(name).count};
}

} // namespace

void run_gemm(const Case& one, int threads) {
  const int64_t m = one.integer("m"), n = one.integer("n"), k = one.integer("k");
  const int64_t count = one.has("count") ? one.integer("count") : 1;
  Output<float> out(count * m * n);
  const nybble::Product product{m,
                                n,
                                k,
                                matrix(one, "a", m, true),
                                matrix(one, "b", n, false),
                                out.data(),
                                threads,
                                one.integer("limit")};
  if (one.has("count")) {
    const auto step = [](const nybble::Matrix& of, int64_t codes) {
      return of.bits == 4 ? codes / 2 : codes;
    };
    nybble::gemm_batch({product, count, step(product.a, m * k), step(product.b, n * k), m * n},
                       vector(one, "scale_a"), vector(one, "scale_b"));
  } else if (one.has("block")) {
    const int64_t block = one.integer("block"), blocks = (k + block - 1) / block;
    nybble::block_gemm(product, block, {one.data<float>("scale_a"), blocks, 1},
                       {one.data<float>("scale_b"), blocks, 1});
  } else {
    nybble::gemm(product, vector(one, "scale_a"), vector(one, "scale_b"), vector(one, "bias"));
  }
  expect(one, "out", out);
}

} // namespace nybble_tests
