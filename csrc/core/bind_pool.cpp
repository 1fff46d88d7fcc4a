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
  if (kind != "passing" && kind != "kept")
    throw std::invalid_argument("take: no such kind: " + kind);
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
  const auto place = kind == "passing" ? Pool::Kind::passing : Pool::Kind::kept;
  void* const block = pool().take(size_t(bytes), place);
  const nb::capsule owner(block, [](void* p) noexcept { pool().give(p); });
  return nb::cast(nb::ndarray<nb::pytorch>(block, sizes.size(), sizes.data(), owner, strides.data(),
                                           dtype, nb::device::cpu::value, 0));
}

nb::dict use() {
  const Pool::Use now = pool().use();
  nb::dict out;
  out["mapped"] = now.mapped;
  out["taken"] = now.taken;
  out["most_taken"] = now.most_taken;
  out["moved"] = now.moved;
  return out;
}

} // namespace

void bind_pool(nb::module_& m) {
  m.def("take", &take, nb::arg("shape"), nb::arg("strides"), nb::arg("dtype"), nb::arg("kind"));
  m.def("pool_use", &use);
  m.def("tag", [](uintptr_t address, uintptr_t tag) {
    pool().tag(reinterpret_cast<void*>(address), tag);
  });
  m.def("owns", [](uintptr_t address, uintptr_t tag) {
    return pool().owns(reinterpret_cast<void*>(address), tag);
  });
  m.def("hollow", [](uintptr_t address) { pool().hollow(reinterpret_cast<void*>(address)); });
  m.def("pool_release", [] { return pool().release(); });
}

} // namespace nybble
