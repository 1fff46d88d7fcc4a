// Decode of packed codes, and the micro kernels of the Gemms on panels.
#include "check.hpp"
#include "core/decode.hpp"
#include "core/dispatch.hpp"
#include "core/unpack.hpp"
#include "gemm/micro.hpp"

namespace nybble_tests {

void run_decode(const Case& one, int) {
  const auto& kernels = *nybble::active().decode;
  const uint8_t* packed = one.data<uint8_t>("packed");
  if (one.has("codes")) {
    Output<uint8_t> codes(one.array("codes").count);
    nybble::active().unpack4(packed, size_t(one.array("packed").count) / nybble::kBlockBytes,
                             codes.data());
    expect(one, "codes", codes);
    return;
  }
  const int64_t start = one.integer("start"), count = one.integer("count");
  if (one.has("bytes")) {
    Output<int8_t> bytes(count);
    kernels.bytes(packed, start, count, one.data<int8_t>("byte_table"), bytes.data());
    expect(one, "bytes", bytes);
  }
  Output<int16_t> words(count);
  kernels.words(packed, start, count, one.data<int16_t>("word_table"), words.data());
  expect(one, "words", words);
}

void run_micro(const Case& one, int) {
  const auto& kernels = *nybble::active().gemm;
  const int64_t groups = one.integer("groups"), flush = one.integer("flush");
  Output<int32_t> acc(nybble::kTile);
  std::memcpy(acc.data(), one.data<int32_t>("start"), nybble::kTile * sizeof(int32_t));
  const std::string kind = one.name.substr(0, one.name.find(' '));
  if (kind == "u8s8")
    kernels.u8s8(groups, one.data<uint8_t>("a"), one.data<int8_t>("b"), flush, acc.data());
  else if (kind == "s8u8")
    kernels.s8u8(groups, one.data<int8_t>("a"), one.data<uint8_t>("b"), flush, acc.data());
  else
    kernels.s16(groups, one.data<int16_t>("a"), one.data<int16_t>("b"), acc.data());
  expect(one, "acc", acc);
}

} // namespace nybble_tests
