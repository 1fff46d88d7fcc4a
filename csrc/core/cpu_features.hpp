// Which instruction sets this CPU and its operating system offer.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace nybble {

// Every feature this platform can have, by name, in a fixed order, with its presence.
// x86-64: sse4_1 avx avx2 fma f16c avx512f avx512vnni avx_vnni; AArch64: neon dotprod; else none.
const std::vector<std::pair<std::string, bool>>& cpu_features();

// Whether the CPU has `name`; false for a name that does not exist on this platform.
bool has_feature(const std::string& name);

} // namespace nybble
