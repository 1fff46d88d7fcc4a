#include "dispatch.hpp"

#include <atomic>
#include <stdexcept>

#include "blocks/kernels.hpp"
#include "conv/pack.hpp"
#include "cpu_features.hpp"
#include "decode.hpp"
#include "gemm/micro.hpp"
#include "lines/kernels.hpp"
#include "norm/kernels.hpp"
#include "quantize/pack.hpp"
#include "quantize/streams.hpp"
#include "quantize/sums.hpp"
#include "recurrent/gates.hpp"
#include "unpack.hpp"
#include "winograd/kernels.hpp"

namespace nybble {

namespace {

const Kernels kGeneric = {"generic",       {},
                          unpack4_generic, &kDecodeGeneric,
                          &kGemmGeneric,   &kWinogradGeneric,
                          &kConvGeneric,   &kQuantizeGeneric,
                          &kStreamGeneric, &kSumGeneric,
                          &kLineGeneric,   &kBlockGeneric,
                          &kNormGeneric,   &kGatesGeneric};

#if defined(NYBBLE_HAVE_AVX2)
const Kernels kAvx2 = {"avx2",       {"avx2", "fma", "f16c"},
                       unpack4_avx2, &kDecodeAvx2,
                       &kGemmAvx2,   &kWinogradAvx2,
                       &kConvAvx2,   &kQuantizeAvx2,
                       &kStreamAvx2, &kSumAvx2,
                       &kLineAvx2,   &kBlockAvx2,
                       &kNormAvx2,   &kGatesAvx2};
#endif

#if defined(NYBBLE_HAVE_AVX2)
LineKernels wider_lines() {
  LineKernels kernels = kLineAvx2;
  kernels.errors = errors_avx512vnni;
  kernels.rounded = rounded_avx512vnni;
  return kernels;
}
const LineKernels kLineAvx512Vnni = wider_lines();
#endif

// A set that is another one with products, and maybe lines, of its own.
Kernels changed(const Kernels& base, const char* name, std::vector<const char*> requires_,
                const GemmKernels* gemm, const WinogradKernels* winograd,
                const LineKernels* lines) {
  Kernels set = base;
  set.name = name;
  set.requires_.insert(set.requires_.end(), requires_.begin(), requires_.end());
  set.gemm = gemm;
  set.winograd = winograd;
  set.lines = lines;
  return set;
}

} // namespace

const std::vector<Kernels>& compiled_sets() {
  static const std::vector<Kernels> sets = {
#if defined(NYBBLE_HAVE_AVX2)
      changed(kAvx2, "avx512vnni", {"avx512f", "avx512vnni"}, &kGemmAvx512Vnni,
              &kWinogradAvx512Vnni, &kLineAvx512Vnni),
      kAvx2,
#endif
#if defined(NYBBLE_HAVE_NEON)
      changed(kGeneric, "dotprod", {"neon", "dotprod"}, &kGemmDotprod, &kWinogradGeneric,
              &kLineGeneric),
      changed(kGeneric, "neon", {"neon"}, &kGemmNeon, &kWinogradGeneric, &kLineGeneric),
#endif
      kGeneric,
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

namespace {
std::atomic<const Kernels*> chosen{nullptr};
}

const Kernels& active() {
  const Kernels* set = chosen.load(std::memory_order_acquire);
  if (set == nullptr) {
    set = &choose();
    chosen.store(set, std::memory_order_release);
  }
  return *set;
}

void use(const std::string& name) { chosen.store(&choose(name), std::memory_order_release); }

} // namespace nybble
