// The parts of the Python module: one `bind_*` function a folder, called by module.cpp.
//
// Arrays cross as (address, bytes) pairs: taking a torch tensor apart costs 3 us through DLPack and
// 0.2 us as two numbers, and a step makes hundreds of calls. The Python side
// (ops/native/buffers.py) checks dtype, device and contiguity before it gives an address away; the
// C++ side checks that the bytes are as many as the shape needs, with arithmetic that cannot
// overflow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace nanobind {
class module_;
}

namespace nybble {

void bind_gemm(nanobind::module_& m);
void bind_winograd(nanobind::module_& m);
void bind_conv(nanobind::module_& m);
void bind_quantize(nanobind::module_& m);
void bind_lines(nanobind::module_& m);
void bind_blocks(nanobind::module_& m);
void bind_norm(nanobind::module_& m);
void bind_recurrent(nanobind::module_& m);
void bind_pool(nanobind::module_& m);

// n * m, or std::invalid_argument where the product (or a negative factor) cannot be a size.
inline int64_t checked_product(int64_t n, int64_t m, const char* what) {
  int64_t out = 0;
  if (n < 0 || m < 0 || __builtin_mul_overflow(n, m, &out) || out > (int64_t(1) << 46))
    throw std::invalid_argument(std::string(what) + ": sizes " + std::to_string(n) + " and " +
                                std::to_string(m) + " are negative or too large");
  return out;
}

// Bytes of `n` packed 4-bit codes: whole blocks of 64 codes.
inline int64_t packed_bytes4(int64_t n) { return (n + 63) / 64 * 32; }

// The array at `address` with `bytes` bytes, as `count` elements of T; throws if it is too short,
// null or misaligned.
template <class T>
T* checked_array(uintptr_t address, size_t bytes, int64_t count, const char* what) {
  const int64_t need = checked_product(count, sizeof(T), what);
  if (int64_t(bytes) < need)
    throw std::invalid_argument(std::string(what) + ": " + std::to_string(need) +
                                " bytes are needed, got " + std::to_string(bytes));
  if (need > 0 && (address == 0 || address % alignof(T) != 0))
    throw std::invalid_argument(std::string(what) + ": the address is null or not aligned");
  return reinterpret_cast<T*>(address);
}

} // namespace nybble
