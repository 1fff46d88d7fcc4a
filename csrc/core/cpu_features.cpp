#include "cpu_features.hpp"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace nybble {
namespace {

using Features = std::vector<std::pair<std::string, bool>>;

#if defined(__x86_64__) || defined(_M_X64)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
#if defined(_MSC_VER)
  int out[4];
  __cpuid(out, 0);
  if (static_cast<uint32_t>(out[0]) < leaf) return r;
  __cpuidex(out, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {uint32_t(out[0]), uint32_t(out[1]), uint32_t(out[2]), uint32_t(out[3])};
#else
  // Returns 0 and leaves the registers alone when the CPU does not know the leaf.
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// The register state that the operating system saves on a context switch. A CPU with AVX under a
// system that does not save its registers must count as a CPU without AVX.
uint64_t saved_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t(high) << 32) | low;
#endif
}

Features probe() {
  const auto bit = [](uint32_t word, int n) { return ((word >> n) & 1u) != 0; };
  const Registers one = cpuid(1, 0);
  const Registers seven = cpuid(7, 0);
  const Registers seven1 = seven.eax >= 1 ? cpuid(7, 1) : Registers{};
  const uint64_t state = bit(one.ecx, 27) ? saved_state() : 0; // bit 27: OSXSAVE
  const bool ymm = (state & 0x06) == 0x06;                     // XMM and YMM
  const bool zmm = ymm && (state & 0xe0) == 0xe0;              // opmask and both ZMM halves
  return {
      {"sse4_1", bit(one.ecx, 19)},
      {"avx", ymm && bit(one.ecx, 28)},
      {"avx2", ymm && bit(seven.ebx, 5)},
      {"fma", ymm && bit(one.ecx, 12)},
      {"f16c", ymm && bit(one.ecx, 29)},
      {"avx512f", zmm && bit(seven.ebx, 16)},
      {"avx512vnni", zmm && bit(seven.ecx, 11)},
      {"avx_vnni", ymm && bit(seven1.eax, 4)},
  };
}

#elif defined(__aarch64__)

Features probe() {
#if defined(__linux__)
  const unsigned long capabilities = getauxval(AT_HWCAP);
  return {{"neon", ((capabilities >> 1) & 1ul) != 0},      // HWCAP_ASIMD
          {"dotprod", ((capabilities >> 20) & 1ul) != 0}}; // HWCAP_ASIMDDP
#elif defined(__ARM_FEATURE_DOTPROD)
  return {{"neon", true}, {"dotprod", true}};
#else
  return {{"neon", true}, {"dotprod", false}}; // part of every AArch64 without getauxval
#endif
}

#else

Features probe() { return {}; }

#endif

} // namespace

const Features& cpu_features() {
  static const Features features = probe();
  return features;
}

bool has_feature(const std::string& name) {
  for (const auto& feature : cpu_features())
    if (feature.first == name) return feature.second;
  return false;
}

} // namespace nybble
