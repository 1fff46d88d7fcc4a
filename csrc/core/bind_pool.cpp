// `_core.take`: a tensor whose memory comes from a pool, and goes back to it when the tensor dies.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bind.hpp"
#include "pool.hpp"

namespace nb = nanobind;

namespace nybble {
namespace {

nb::dlpack::dtype dtype_of(const std::string& name) {
  if (name == "float32") return nb::dtype<float>();
  if (name == "uint8") return nb::dtype<uint8_t>();
  if (name == "int32") return nb::dtype<int32_t>();
  throw std::invalid_argument("take: no such dtype: " + name);
}

nb::object take(const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                const std::string& dtype_name, const std::string& kind) {
  if (shape.size() != strides.size())
    throw std::invalid_argument("take: shape and strides differ in length");
  const nb::dlpack::dtype dtype = dtype_of(dtype_name);
  int64_t last = 0; // the offset of the last element
  std::vector<size_t> sizes;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 1 || strides[i] < 0)
      throw std::invalid_argument("take: sizes must be positive and strides not negative");
    sizes.push_back(size_t(shape[i]));
    last += checked_product(shape[i] - 1, strides[i], "take");
  }
  const int64_t bytes = checked_product(last + 1, dtype.bits / 8, "take");
  void* block;
  void (*give)(void*) noexcept;
  if (kind == "lasting") {
    block = lasting_pool().take(size_t(bytes), Pool::Kind::passing);
    give = [](void* p) noexcept { lasting_pool().give(p); };
  } else {
    block = pool().take(size_t(bytes), kind == "kept" ? Pool::Kind::kept : Pool::Kind::passing);
    give = [](void* p) noexcept { pool().give(p); };
  }
  const nb::capsule owner(block, give);
  return nb::cast(nb::ndarray<nb::pytorch>(block, sizes.size(), sizes.data(), owner, strides.data(),
                                           dtype, nb::device::cpu::value, 0));
}

nb::dict use() {
  const Pool::Use a = pool().use(), b = lasting_pool().use();
  nb::dict out;
  out["mapped"] = a.mapped + b.mapped;
  out["taken"] = a.taken + b.taken;
  out["most_taken"] = a.most_taken + b.most_taken;
  return out;
}

} // namespace

void bind_pool(nb::module_& m) {
  m.def("take", &take, nb::arg("shape"), nb::arg("strides"), nb::arg("dtype"), nb::arg("kind"));
  m.def("pool_use", &use);
  m.def("pool_release", [] { return pool().release() + lasting_pool().release(); });
}

} // namespace nybble
