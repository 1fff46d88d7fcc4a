// Work items handed out to at most `threads` workers; the body knows its worker, hence its scratch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/parallel.hpp"

namespace nybble {

template <class Body>
void for_workers(int threads, int64_t items, const Body& body) {
  const int64_t workers = std::max<int64_t>(1, std::min<int64_t>(threads, items));
  std::atomic<int64_t> next{0};
  parallel_for(int(workers), workers, [&](int64_t worker) {
    for (int64_t i = next++; i < items; i = next++)
      body(worker, i);
  });
}

} // namespace nybble
