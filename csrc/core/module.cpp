// The Python face of csrc/: `nybble._core`. Its types are written down in src/nybble/_core.pyi.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "bind.hpp"
#include "cpu_features.hpp"
#include "decode.hpp"
#include "dispatch.hpp"
#include "unpack.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace nb = nanobind;

namespace {

nb::dict cpu_features() {
  nb::dict out;
  for (const auto& [name, present] : nybble::cpu_features())
    out[nb::str(name.c_str())] = present;
  return out;
}

nb::tuple isas() {
  nb::list out;
  for (const nybble::Kernels& set : nybble::compiled_sets())
    if (nybble::runs_here(set)) out.append(set.name);
  return nb::tuple(out);
}

int max_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

bool has_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

nb::bytes unpack4(const nb::bytes& packed, const std::string& isa) {
  if (packed.size() % nybble::kBlockBytes != 0)
    throw std::invalid_argument("unpack4 needs whole blocks of 32 bytes, got " +
                                std::to_string(packed.size()) + " bytes");
  const size_t blocks = packed.size() / nybble::kBlockBytes;
  std::string codes(blocks * nybble::kBlockCodes, '\0');
  nybble::choose(isa).unpack4(reinterpret_cast<const uint8_t*>(packed.c_str()), blocks,
                              reinterpret_cast<uint8_t*>(codes.data()));
  return nb::bytes(codes.data(), codes.size());
}

template <class T, class Decode>
void decode(Decode kernel, uintptr_t packed, size_t bytes, int64_t start, int64_t count,
            uintptr_t table, uintptr_t out, size_t out_bytes) {
  using namespace nybble;
  if (start < 0 || count < 0 || start > (int64_t(1) << 46) || count > (int64_t(1) << 46))
    throw std::invalid_argument("decode: start and count must be sizes");
  const auto* from =
      checked_array<const uint8_t>(packed, bytes, packed_bytes4(start + count), "decode codes");
  const auto* values = checked_array<const T>(table, 16 * sizeof(T), 16, "decode table");
  auto* to = checked_array<T>(out, out_bytes, count, "decode out");
  nb::gil_scoped_release release;
  kernel(from, start, count, values, to);
}

} // namespace

NB_MODULE(_core, m) {
  m.attr("__doc__") = "The compiled part of nybble: CPU features, dispatch, kernels.";
  m.def("version", [] { return NYBBLE_VERSION; });
  m.def("cpu_features", &cpu_features);
  m.def("isas", &isas);
  m.def(
      "isa", [](const std::string& name) { return nybble::choose(name).name; },
      nb::arg("name") = "");
  m.def("use_isa", [](const std::string& name) { nybble::use(name); }, nb::arg("name"));
  m.def("active_isa", [] { return nybble::active().name; });
  m.def("decode_bytes", [](uintptr_t packed, size_t bytes, int64_t start, int64_t count,
                           uintptr_t table, uintptr_t out, size_t out_bytes) {
    decode<int8_t>(nybble::active().decode->bytes, packed, bytes, start, count, table, out,
                   out_bytes);
  });
  m.def("decode_words", [](uintptr_t packed, size_t bytes, int64_t start, int64_t count,
                           uintptr_t table, uintptr_t out, size_t out_bytes) {
    decode<int16_t>(nybble::active().decode->words, packed, bytes, start, count, table, out,
                    out_bytes);
  });
  nybble::bind_conv(m);
  m.def("max_threads", &max_threads);
  m.def("has_openmp", &has_openmp);
  nybble::bind_gemm(m);
  nybble::bind_quantize(m);
  nybble::bind_lines(m);
  nybble::bind_blocks(m);
  nybble::bind_norm(m);
  nybble::bind_recurrent(m);
  nybble::bind_pool(m);
  m.def("unpack4", &unpack4, nb::arg("packed"), nb::arg("isa") = "");
  nybble::bind_winograd(m);
}
