// Asking for memory before it is read: a hint, that costs nothing where a compiler has none.
#pragma once

#include <cstdint>

namespace nybble {

inline void ask_for(const float* x, int64_t n) {
#if defined(__GNUC__)
  for (int64_t i = 0; i < n; i += 16) // a cache line
    __builtin_prefetch(x + i);
#else
  (void)x, (void)n;
#endif
}

} // namespace nybble
