#include <cstring>

#include "gemm/panels.hpp"

namespace nybble {
namespace {

void gather(const uint8_t* const* rows, int count, int width, int64_t groups, uint32_t* panel) {
  for (int64_t g = 0; g < groups; ++g)
    for (int r = 0; r < width; ++r, ++panel) {
      *panel = 0;
      if (r < count) std::memcpy(panel, rows[r] + 4 * g, 4);
    }
}

void weave(const uint8_t* const* rows, int64_t offset, int size, int width, int64_t groups,
           uint32_t* panel) {
  const int group = 4 / size;
  auto* out = reinterpret_cast<uint8_t*>(panel);
  for (int64_t g = 0; g < groups; ++g, rows += group)
    for (int c = 0; c < width; ++c)
      for (int i = 0; i < group; ++i, out += size)
        std::memcpy(out, rows[i] + offset + c * size, size);
}

void sums(const uint32_t* panel, int width, int64_t groups, int32_t* out) {
  for (int c = 0; c < width; ++c)
    out[c] = 0;
  for (int64_t g = 0; g < groups; ++g)
    for (int c = 0; c < width; ++c, ++panel) {
      int8_t bytes[4];
      std::memcpy(bytes, panel, 4);
      out[c] += bytes[0] + bytes[1] + bytes[2] + bytes[3];
    }
}

} // namespace

const PanelKernels kPanelsGeneric = {gather, weave, sums};

} // namespace nybble
