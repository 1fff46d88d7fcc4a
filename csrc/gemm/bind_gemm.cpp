// `nybble._core.gemm` and `block_gemm`: sizes are checked here, then the GIL is let go.
#include <nanobind/nanobind.h>
#include <nanobind/stl/tuple.h>

#include <stdexcept>
#include <tuple>

#include "core/bind.hpp"
#include "gemm/gemm.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

using Span = std::tuple<uintptr_t, size_t>; // address, bytes; (0, 0) for nothing
// packed, table, bits, low, high, transposed (stored with the free dimension contiguous for b)
using Operand = std::tuple<Span, Span, int, int64_t, int64_t, bool>;

Matrix matrix(const Operand& operand, int64_t free, int64_t k, bool is_a, const char* what) {
  const auto& [packed, table, bits, low, high, transposed] = operand;
  if (bits != 4 && bits != 8)
    throw std::invalid_argument(std::string(what) + ": codes have 4 or 8 bits here");
  if (low > 0 || high < 0 || low < INT32_MIN || high > INT32_MAX)
    throw std::invalid_argument(std::string(what) + ": bounds must hold 0 and fit 32 bits");
  const int64_t codes = checked_product(free, k, what);
  const int64_t entries = bits == 4 ? 16 : 256;
  return {checked_array<const uint8_t>(std::get<0>(packed), std::get<1>(packed),
                                       bits == 4 ? packed_bytes4(codes) : codes, what),
          bits,
          checked_array<const int16_t>(std::get<0>(table), std::get<1>(table), entries, what),
          {low, high},
          free,
          is_a != transposed};
}

Vector vector(const Span& span, int64_t length, const char* what) {
  const auto& [address, bytes] = span;
  if (address == 0 && bytes == 0) return {nullptr, 0};
  const int64_t count = bytes == sizeof(float) ? 1 : length;
  if (bytes != size_t(count) * sizeof(float))
    throw std::invalid_argument(std::string(what) + ": 1 or " + std::to_string(length) +
                                " numbers are needed, got " +
                                std::to_string(bytes / sizeof(float)));
  return {checked_array<const float>(address, bytes, count, what), count};
}

Product product(int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b,
                const Span& out, int threads, int64_t limit) {
  if (limit < 1 || limit > INT32_MAX) throw std::invalid_argument("gemm: limit is beyond int32");
  return {m,
          n,
          k,
          matrix(a, m, k, true, "gemm a"),
          matrix(b, n, k, false, "gemm b"),
          checked_array<float>(std::get<0>(out), std::get<1>(out),
                               checked_product(m, n, "gemm out"), "gemm out"),
          threads,
          limit};
}

// Every matrix of a batch starts at a byte: 4-bit codes of one fill whole blocks.
Batch batch(int64_t count, int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b,
            const Span& out, int threads, int64_t limit) {
  const int64_t rows_a = checked_product(count, m, "gemm_batch a");
  const int64_t rows_b = checked_product(count, n, "gemm_batch b");
  const Matrix all_a = matrix(a, rows_a, k, true, "gemm_batch a");
  const Matrix all_b = matrix(b, rows_b, k, false, "gemm_batch b");
  if (limit < 1 || limit > INT32_MAX) throw std::invalid_argument("gemm: limit is beyond int32");
  const int64_t codes_a = checked_product(m, k, "gemm_batch a");
  const int64_t codes_b = checked_product(n, k, "gemm_batch b");
  if (count > 1 &&
      ((all_a.bits == 4 && codes_a % 64 != 0) || (all_b.bits == 4 && codes_b % 64 != 0)))
    throw std::invalid_argument("gemm_batch: 4-bit matrices must be whole blocks of 64 codes");
  Batch of{{m, n, k, all_a, all_b, nullptr, threads, limit},
           count,
           all_a.bits == 4 ? codes_a / 2 : codes_a,
           all_b.bits == 4 ? codes_b / 2 : codes_b,
           checked_product(m, n, "gemm_batch out")};
  of.first.a.free = m;
  of.first.b.free = n;
  of.first.out =
      checked_array<float>(std::get<0>(out), std::get<1>(out),
                           checked_product(count, of.out_step, "gemm_batch out"), "gemm_batch out");
  return of;
}

BlockScales scales(const Span& span, int64_t along_free, int64_t along_block, int64_t free,
                   int64_t blocks, const char* what) {
  int64_t last = 0, other = 0;
  if (free > 0 && blocks > 0) {
    last = checked_product(free - 1, along_free, what);
    other = checked_product(blocks - 1, along_block, what);
  }
  const bool none = free == 0 || blocks == 0;
  return {checked_array<const float>(std::get<0>(span), std::get<1>(span),
                                     none ? 0 : last + other + 1, what),
          along_free, along_block};
}

} // namespace

void bind_gemm(nb::module_& m) {
  m.def("gemm", [](int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b,
                   const Span& scale_a, const Span& scale_b, const Span& bias, const Span& out,
                   int threads, int64_t limit) {
    const Product p = product(m, n, k, a, b, out, threads, limit);
    const Vector s_a = vector(scale_a, m, "gemm scale_a"), s_b = vector(scale_b, n, "gemm scale_b");
    const Vector add = vector(bias, n, "gemm bias");
    nb::gil_scoped_release release;
    gemm(p, s_a, s_b, add);
  });
  m.def("gemm_batch", [](int64_t count, int64_t m, int64_t n, int64_t k, const Operand& a,
                         const Operand& b, const Span& scale_a, const Span& scale_b,
                         const Span& out, int threads, int64_t limit) {
    const Batch of = batch(count, m, n, k, a, b, out, threads, limit);
    const Vector s_a = vector(scale_a, 1, "gemm scale_a"), s_b = vector(scale_b, 1, "gemm scale_b");
    nb::gil_scoped_release release;
    gemm_batch(of, s_a, s_b);
  });
  m.def("block_gemm",
        [](int64_t m, int64_t n, int64_t k, const Operand& a, const Operand& b, int64_t block,
           const Span& scale_a, const std::tuple<int64_t, int64_t>& by_a, const Span& scale_b,
           const std::tuple<int64_t, int64_t>& by_b, const Span& out, int threads, int64_t limit) {
          const Product p = product(m, n, k, a, b, out, threads, limit);
          if (block < 1 || block > INT32_MAX)
            throw std::invalid_argument("block_gemm: a block has 1 to 2^31 - 1 elements");
          const int64_t blocks = (k + block - 1) / block;
          const BlockScales s_a = scales(scale_a, std::get<0>(by_a), std::get<1>(by_a), m, blocks,
                                         "block_gemm scale_a");
          const BlockScales s_b = scales(scale_b, std::get<0>(by_b), std::get<1>(by_b), n, blocks,
                                         "block_gemm scale_b");
          nb::gil_scoped_release release;
          block_gemm(p, block, s_a, s_b);
        });
}

} // namespace nybble
