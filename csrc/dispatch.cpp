#include "dispatch.hpp"

#include <stdexcept>

#include "cpu_features.hpp"
#include "unpack.hpp"

namespace nybble {

const std::vector<Kernels>& compiled_sets() {
  static const std::vector<Kernels> sets = {
#if defined(NYBBLE_HAVE_AVX2)
      {"avx2", {"avx2", "fma", "f16c"}, unpack4_avx2},
#endif
      {"generic", {}, unpack4_generic},
  };
  return sets;
}

bool runs_here(const Kernels& set) {
  for (const char* feature : set.requires_)
    if (!has_feature(feature)) return false;
  return true;
}

const Kernels& choose(const std::string& name) {
  std::string names;
  for (const Kernels& set : compiled_sets()) {
    const bool runs = runs_here(set);
    if (runs && (name.empty() || name == set.name)) return set;
    if (runs) names += names.empty() ? set.name : std::string(", ") + set.name;
  }
  throw std::invalid_argument("instruction set '" + name +
                              "' cannot be used here; choose one of: " + names);
}

} // namespace nybble
